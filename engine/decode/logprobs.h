#pragma once

#include <cstdint>
#include <span>

#include "engine/base/types.h"

namespace strata::engine {

// Log-probabilities of `token` and of the `top` likeliest ids in the softmax of `logits`, [vocab]
// (in double; natural logarithm). Among equals the lower id comes first. Non-finite logits are
// impossible: logprob -inf, ranked after all others, never among the likeliest.
TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token, int32_t top);

}  // namespace strata::engine
