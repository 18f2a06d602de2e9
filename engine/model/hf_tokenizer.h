#pragma once

#include <filesystem>

#include "absl/status/statusor.h"
#include "engine/base/model_source.h"

namespace strata::engine {

// DIR/tokenizer_config.json; null if there is none.
absl::StatusOr<JsonDocument> ReadHfTokenizerConfig(const std::filesystem::path& dir);

// DIR/tokenizer.json, or else GPT-2's vocab.json and merges.txt as such a document, with
// tokenizer_config.json. NOT_FOUND if there is neither; INVALID_ARGUMENT naming the file, and for
// merges.txt the line.
absl::StatusOr<TokenizerDescription> ReadHfTokenizer(const std::filesystem::path& dir);

}  // namespace strata::engine
