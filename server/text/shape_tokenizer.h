#pragma once

#include <cstdint>

#include "nlohmann/json.hpp"

namespace strata::server {

// tokenizer.json of a model that has only a shape: id b is byte b, and each id above is a word of
// its own, which encoding never produces. Answers are nonsense of an ordinary length. REQUIRES:
// `words` >= 256.
nlohmann::json ShapeTokenizer(int32_t words);

}  // namespace strata::server
