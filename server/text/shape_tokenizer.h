#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// The tokenizer of a model that has only a shape: id b is byte b, and each id above is a word of
// its own, which encoding never produces. Answers are nonsense of an ordinary length. REQUIRES:
// `vocab_size` >= 256.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeShapeTokenizer(int32_t vocab_size);

}  // namespace strata::server
