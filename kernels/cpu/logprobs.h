#pragma once

#include <cstdint>
#include <span>

#include "kernels/token_choice.h"

namespace strata::kernels {

// Log-probabilities of `token` and of the `top` likeliest ids in the softmax of `logits`, [vocab]
// (in double; natural logarithm). Among equals the lower id comes first. Non-finite logits are
// impossible: logprob -inf, ranked after all others, never among the likeliest. REQUIRES: `top` is
// at most kMaxLogprobs.
ChosenToken LogprobsOf(std::span<const float> logits, int32_t token, int32_t top);

}  // namespace strata::kernels
