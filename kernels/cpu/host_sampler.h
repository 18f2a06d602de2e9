#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/logits.h"
#include "kernels/token_choice.h"

namespace strata::kernels {

// Chooses tokens from logits in host memory. Keeps scratch between calls; one thread. A parameter
// that changes nothing costs nothing: greedy without penalties is one pass.
class HostSampler {
 public:
  // logits: [vocab]. Writes the token, and the rest of `chosen` if the choice wants
  // log-probabilities.
  void Choose(std::span<const float> logits, const TokenChoice& choice, ChosenToken* chosen);

  // Bytes of scratch so far, and their upper bound.
  size_t scratch_bytes() const;
  static size_t MostScratchBytes(int64_t vocab_size);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  struct Bin {
    double mass = 0;    // the sum of its tokens' weights
    int32_t count = 0;  // of tokens
  };

  std::span<const float> Adjust(std::span<const float> logits, const TokenChoice& choice);
  void KeepAllowed(std::span<const int32_t> allowed);
  int32_t Draw(std::span<const float> logits, const TokenChoice& choice);
  // Sorts all tokens into bins by likelihood; returns the number of bins that may hold tokens.
  size_t FillBins(std::span<const float> logits, const LogitWeighing& weighing);
  // Returns the number of bins that top-k leaves; the last may lose some of its tokens.
  size_t KeepTopK(std::span<const float> logits, size_t top_k, size_t num_bins);
  // Returns the number of bins that top-p leaves, likewise: their tokens have `wanted` mass
  // together.
  size_t KeepTopP(std::span<const float> logits, double wanted, size_t num_bins);
  // Makes the tokens of a bin the candidates.
  void Open(std::span<const float> logits, size_t bin);
  // The candidate at this place in order of likelihood. REQUIRES: there is one.
  const Candidate& Likeliest(size_t place);
  double WeightOf(const Candidate& candidate) const {
    return static_cast<double>(weights_[static_cast<size_t>(candidate.id)]);
  }
  static bool Likelier(const Candidate& a, const Candidate& b);

  std::vector<float> adjusted_;  // logits after penalties, biases, barred and allowed ids
  std::vector<int32_t> barred_;
  std::vector<Candidate> allowed_;
  std::vector<float> weights_;           // [vocab] exp((logit - highest) / temperature), or 0
  std::vector<uint16_t> places_;         // [vocab] the bin of each token
  std::array<Bin, kNumLogitBins> bins_;  // likeliest first
  std::vector<Candidate> candidates_;    // of one bin; the first num_sorted_ most likely first
  size_t num_sorted_ = 0;
};

}  // namespace strata::kernels
