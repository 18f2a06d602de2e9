#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/base/json.h"
#include "server/text/regex.h"

namespace strata::server {

// A token that is searched in the text itself, before the model sees any of it.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // dropped by Decode, and found only if special tokens are parsed
  bool normalized = true;    // searched in the normalized text, itself normalized
  bool single_word = false;  // found only if no letter or digit touches it
  bool lstrip = false;       // takes the whitespace on its left with it
  bool rstrip = false;
};

// The field `added_tokens` of a tokenizer.json. INVALID_ARGUMENT for a content or an id that is
// there twice.
absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(JsonReader root);

// A part of a text: a token found in it, or the text between two tokens.
struct TextSection {
  TextRange range;
  std::optional<int32_t> token;
};

// Finds tokens in texts, leftmost first, and the longest of several at one place. Time is linear in
// the text for tokens of bounded length. Immutable once the last token is added; any thread.
class AddedTokenMatcher {
 public:
  // Searches `pattern`, the token's content as spelled in the text, from now on. No effect for an
  // empty pattern, or the pattern of an earlier token.
  void Add(const AddedToken& token, std::string_view pattern);

  // The sections of `text` in order; without `parse_special` special tokens stay text. Sections may
  // overlap if tokens contend for the same whitespace, as in the reference implementation.
  // REQUIRES: valid UTF-8.
  std::vector<TextSection> Split(std::string_view text, bool parse_special) const;

 private:
  struct Hit {
    const AddedToken* token = nullptr;  // null: no token starts here
    size_t end = 0;
  };

  Hit LongestAt(std::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  std::bitset<256> first_bytes_;
  absl::flat_hash_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node; the root is 0
  absl::flat_hash_map<uint32_t, size_t> accepts_;  // node -> index into tokens_
};

}  // namespace strata::server
