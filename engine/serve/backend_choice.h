#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/decode/sampler.h"
#include "engine/serve/sequence.h"
#include "kernels/token_choice.h"

namespace strata::engine {

// The random number of the token at `position` of sequence `index` of the request, which `sequence`
// is, or stands for.
double UniformFor(const Sequence& sequence, int32_t index, int32_t position);

// What Sampler::Sample would be asked of the token at `position`, as a backend is asked; but for
// its row. What it points to is the sequence's, or appended to `biases`.
kernels::TokenChoice ChoiceOf(const Sequence& sequence, int32_t index, int32_t position,
                              std::span<const int32_t> eos_ids,
                              std::vector<std::vector<kernels::TokenBias>>* biases);

// The way back.
SampledToken TokenOf(const kernels::ChosenToken& chosen, const SamplingParams& params);

}  // namespace strata::engine
