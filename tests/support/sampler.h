#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/decode/token_choice.h"
#include "kernels/cpu/host_sampler.h"
#include "kernels/cpu/logprobs.h"

namespace strata::testing {

struct SampledToken {
  int32_t token = 0;
  std::optional<engine::TokenLogprobs> logprobs = {};  // with SamplingParams::logprobs
};

// Chooses on the host as a request's parameters say.
class Sampler {
 public:
  SampledToken Sample(std::span<const float> logits, const engine::SamplingParams& params,
                      const engine::SamplingState& state) {
    biases_.clear();
    kernels::ChosenToken chosen;
    sampler_.Choose(logits, engine::ChoiceOf(params, state, &biases_), &chosen);
    SampledToken sampled = {.token = chosen.token};
    if (params.logprobs) sampled.logprobs = engine::LogprobsOf(chosen);
    return sampled;
  }

 private:
  kernels::HostSampler sampler_;
  std::vector<kernels::TokenBias> biases_;
};

inline engine::TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token, int32_t top) {
  return engine::LogprobsOf(kernels::LogprobsOf(logits, token, top));
}

}  // namespace strata::testing
