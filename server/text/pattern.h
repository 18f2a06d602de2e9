#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/json.h"
#include "server/text/regex.h"

namespace strata::server {

// Replaces `*matches` with the matches in the text: ascending, without overlap. One search serves
// many texts and one thread.
using Search = std::function<absl::Status(std::string_view text, std::vector<TextRange>* matches)>;

// The field `pattern` of Split and Replace: {"String": "..."} or {"Regex": "..."}.
// Immutable; any thread.
class Pattern {
 public:
  static absl::StatusOr<Pattern> FromJson(JsonReader owner);
  static absl::StatusOr<Pattern> FromRegex(std::string_view regex);
  static Pattern FromLiteral(std::string_view literal);  // REQUIRES: not empty

  // The pattern must outlive the search.
  Search NewSearch() const;

 private:
  Pattern() = default;

  std::string literal_;
  std::optional<Regex> regex_;  // nullopt: the literal counts
};

}  // namespace strata::server
