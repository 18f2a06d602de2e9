#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json.h"
#include "server/text/pre_tokenized_text.h"

namespace strata::server {

// Splits a normalized text, and may respell it: the field `pre_tokenizer` of a tokenizer.json.
// Immutable; any thread.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // Refines `text->pieces`. After an error the value of `*text` is unspecified.
  virtual absl::Status Apply(PreTokenizedText* text) const = 0;

  // ByteLevel, Split, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit or Sequence; null
  // if `root` has no pre-tokenizer. INVALID_ARGUMENT names any other.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromJson(JsonReader root);
};

}  // namespace strata::server
