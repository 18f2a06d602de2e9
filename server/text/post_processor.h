#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/json.h"

namespace strata::server {

// The special tokens that encoding puts around a text: the effect of the field `post_processor` of
// a tokenizer.json on one text without offsets.
struct TokenFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;

  // ByteLevel, TemplateProcessing or Sequence; an empty frame if `root` has none. INVALID_ARGUMENT
  // names any other.
  static absl::StatusOr<TokenFrame> FromJson(JsonReader root);
};

}  // namespace strata::server
