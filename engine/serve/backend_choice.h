#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/decode/sampler.h"
#include "engine/serve/sequence.h"
#include "kernels/token_choice.h"

namespace strata::engine {

// The random number of the token at `position` of sequence `index` of the request. `sequence` is
// that sequence, or stands for it before the fork.
double UniformFor(const Sequence& sequence, int32_t index, int32_t position);

// Builds the TokenChoice for the token at `position`, with the meaning of Sampler::Sample; the
// caller sets `row`. Spans point into the sequence, or into lists appended to `biases`.
kernels::TokenChoice ChoiceOf(const Sequence& sequence, int32_t index, int32_t position,
                              std::span<const int32_t> eos_ids,
                              std::vector<std::vector<kernels::TokenBias>>* biases);

// Converts a backend's choice to the sampler's result.
SampledToken TokenOf(const kernels::ChosenToken& chosen, const SamplingParams& params);

}  // namespace strata::engine
