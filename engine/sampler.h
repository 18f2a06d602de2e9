#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/types.h"

namespace strata::engine {

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): four random
// words that depend on key and counter alone.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The uniform number in [0, 1) that decides the token at `position` of sequence `index` of a
// request with this seed: the same under any load, in any order.
double UniformAt(uint64_t seed, uint32_t index, uint64_t position);

// Chooses tokens from logits. Keeps scratch between calls; one thread.
class Sampler {
 public:
  // logits: [vocab]. `uniform` in [0, 1) decides among the kept tokens, most likely first, the
  // lower id first among equals. Non-finite logits count as impossible; if none is finite, token 0.
  int32_t Sample(std::span<const float> logits, const SamplingParams& params, double uniform);
  // Of `token` and the `top` likeliest, by the log-softmax of the logits.
  TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token, int32_t top);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

}  // namespace strata::engine
