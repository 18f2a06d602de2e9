#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json_reader.h"
#include "server/text/regex.h"

namespace strata::server {

// A text on its way to the model: split into pieces, no merge crosses a border between two.
struct PreTokenizedText {
  std::string text;
  std::vector<TextRange> pieces;  // of text; ascending, not empty, without overlap
  bool at_start = true;           // whether the first piece begins where the user's text begins
};

// Splits a normalized text, and may respell it: the field `pre_tokenizer` of a tokenizer.json.
// Immutable; any thread.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;

  // Refines `text->pieces`. After an error the value of `*text` is unspecified.
  virtual absl::Status Apply(PreTokenizedText* text) const = 0;

  // ByteLevel, Split, Digits, Metaspace, Punctuation, Whitespace, WhitespaceSplit or Sequence; null
  // where `root` has no pre-tokenizer. INVALID_ARGUMENT names any other.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> FromJson(JsonReader root);
};

}  // namespace strata::server
