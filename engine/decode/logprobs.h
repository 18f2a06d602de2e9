#pragma once

#include <cstdint>
#include <span>

#include "engine/base/types.h"

namespace strata::engine {

// Of `token` and of the `top` likeliest ids in the distribution that `logits`, [vocab], stand for
// (softmax in double; natural logarithm). Among equals the lower id stands first. Non-finite logits
// are impossible: logprob -inf, behind all others, never among the likeliest.
TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token, int32_t top);

}  // namespace strata::engine
