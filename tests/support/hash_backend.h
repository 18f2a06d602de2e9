#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/backend.h"

namespace strata::testing {

// A backend whose model is a hash: the next token depends on every token before it, as read back
// through block tables from the cache, and on nothing else. So a block that is shared, evicted or
// given away wrongly shows as a wrong token. A layer that reuses scores reads them from the score
// blocks where the first layer kept them. For models with one head, the layers above the first of
// which reuse its scores.
// `fail`, if given, is asked at each step whether the device reports an error. `chooses`: it
// chooses the tokens itself, the likeliest after biases, and tells them when they are taken.
std::unique_ptr<kernels::Backend> MakeHashBackend(std::function<bool()> fail = {},
                                                  bool chooses = false);

// The token that the hash model puts after `tokens`.
int32_t HashNext(std::span<const int32_t> tokens, int32_t vocab_size);

}  // namespace strata::testing
