#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "engine/base/types.h"
#include "engine/decode/token_history.h"
#include "kernels/token_choice.h"

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
  std::span<const int32_t> output = {};  // tokens generated so far; bad words read them
  int32_t num_generated = 0;
  double uniform = 0;  // in [0, 1)
};

// Builds the TokenChoice of the next token; the caller sets `row`. Until min_tokens the ids that
// end the output are barred, and the last id of each bad word whose other ids end the output always
// is. Spans point into params, history and `biases`, to which the choice's biases are appended.
// REQUIRES: `biases` is empty.
kernels::TokenChoice ChoiceOf(const SamplingParams& params, const SamplingState& state,
                              std::vector<kernels::TokenBias>* biases);

// The log-probabilities that a choice with TokenChoice::num_logprobs reports.
TokenLogprobs LogprobsOf(const kernels::ChosenToken& chosen);

}  // namespace strata::engine
