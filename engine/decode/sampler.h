#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/types.h"
#include "engine/decode/token_history.h"
#include "kernels/cpu/logits.h"

namespace strata::engine {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): four random
// words that depend only on key and counter.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The uniform number in [0, 1) that decides the token at `position` of sequence `index` of a
// request with this seed: the same under any load, in any order.
double UniformAt(uint64_t seed, uint32_t index, uint64_t position);

// Inputs of the choice beside logits and parameters.
struct SamplingState {
  const TokenHistory& history;  // of the sequence
  std::span<const int32_t> eos_ids = {};
  std::span<const int32_t> output = {};  // tokens generated so far
  int32_t num_generated = 0;
  double uniform = 0;  // in [0, 1)
};

// Appends the ids that must not be drawn after `num_generated` tokens: until min_tokens the ids
// that end the output, and the last id of each bad word whose other ids end the output. With bad
// words `output` holds all `num_generated` tokens.
void AppendBarred(const SamplingParams& params, std::span<const int32_t> eos_ids,
                  std::span<const int32_t> output, int32_t num_generated,
                  std::vector<int32_t>* ids);

struct SampledToken {
  int32_t token = 0;
  std::optional<TokenLogprobs> logprobs = {};  // with SamplingParams::logprobs
};

// Chooses tokens from logits, as SamplingParams says. Keeps scratch between calls; one thread. A
// parameter that changes nothing costs nothing: greedy without penalties is one pass.
class Sampler {
 public:
  // logits: [vocab]. `uniform` decides among the kept tokens, most likely first, the lower id first
  // among equals. Non-finite logits count as impossible; if none is finite, the result is token 0,
  // or the lowest allowed id.
  SampledToken Sample(std::span<const float> logits, const SamplingParams& params,
                      const SamplingState& state);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };

  std::span<const float> Adjust(std::span<const float> logits, const SamplingParams& params,
                                const SamplingState& state);
  void KeepAllowed(const SamplingParams& params);
  int32_t Choose(std::span<const float> logits, const SamplingParams& params, double uniform);
  struct Bin {
    double mass = 0;    // the sum of its tokens' weights
    int32_t count = 0;  // of tokens
  };
  // Sorts all tokens into bins by likelihood; returns the number of bins that may hold tokens.
  size_t FillBins(std::span<const float> logits, const kernels::LogitWeighing& weighing);
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

  std::vector<float> adjusted_;  // logits after penalties, bias, barred and allowed ids
  std::vector<int32_t> barred_;
  std::vector<Candidate> allowed_;
  std::vector<float> weights_;    // [vocab] exp((logit - highest) / temperature), or 0
  std::vector<uint16_t> places_;  // [vocab] the bin of each token
  std::array<Bin, kernels::kNumLogitBins> bins_;  // likeliest first
  std::vector<Candidate> candidates_;  // of one bin; the first num_sorted_ most likely first
  size_t num_sorted_ = 0;
};

}  // namespace strata::engine
