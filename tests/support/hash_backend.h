#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "kernels/backend.h"

namespace strata::testing {

// A backend whose model is a hash: the next token depends on every token before it, as read back
// through block tables from the cache, and on nothing else. A block that is shared, evicted or
// given away wrongly therefore shows as a wrong token. A layer that reuses scores reads them from
// the score blocks that the first layer wrote. For models with one head in which later layers reuse
// the first layer's scores.
// `fail`, if given, is called at each step and returns whether the device reports an error.
// `asynchronous`: the engine starts a step before it takes the tokens of the step before.
std::unique_ptr<kernels::Backend> MakeHashBackend(std::function<bool()> fail = {},
                                                  bool asynchronous = false);

// The token that the hash model puts after `tokens`.
int32_t HashNext(std::span<const int32_t> tokens, int32_t vocab_size);

}  // namespace strata::testing
