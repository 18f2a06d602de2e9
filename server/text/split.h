#pragma once

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "server/text/pattern.h"
#include "server/text/pre_tokenized_text.h"

namespace strata::server {

// Treatment of the matches; "the-final--countdown" split at "-":
enum class SplitBehavior {
  kRemoved,             // the final countdown
  kIsolated,            // the - final - - countdown
  kMergedWithPrevious,  // the- final- - countdown
  kMergedWithNext,      // the -final - -countdown
  kContiguous,          // the - final -- countdown
};

std::optional<SplitBehavior> SplitBehaviorFromName(std::string_view name);

// Splits every piece of `*text` at the matches of `search` in it, or with `invert` at the text
// between the matches. Empty pieces are dropped.
absl::Status SplitPieces(const Search& search, SplitBehavior behavior, bool invert,
                         PreTokenizedText* text);

// A search for characters of a class, each a match of its own.
Search SearchChars(bool (*is_match)(char32_t));

}  // namespace strata::server
