#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/json_reader.h"

namespace strata::server {

// The special tokens that encoding puts around a text: what the field `post_processor` of a
// tokenizer.json comes to where there is one text and no offsets.
struct TokenFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;

  // ByteLevel, TemplateProcessing or Sequence; an empty frame where `root` has none.
  // INVALID_ARGUMENT names any other.
  static absl::StatusOr<TokenFrame> FromJson(JsonReader root);
};

}  // namespace strata::server
