#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// Texts that end an output. Immutable; any thread.
class StopStrings {
 public:
  // No stop strings.
  StopStrings() = default;
  // Empty strings have no effect. INVALID_ARGUMENT, "stop: ...": more than 16, or one that is over
  // 256 bytes or not UTF-8.
  static absl::StatusOr<StopStrings> Create(std::vector<std::string> strings, bool include);

  // For an output that leaves special tokens out: a special token whose text is one of the strings
  // still ends the output.
  void AddSpecialTokens(const Tokenizer& tokenizer);
  // Whether the special token ends the output.
  bool EndsAt(int32_t token) const;
  bool include() const { return include_; }

 private:
  friend class StopMatcher;

  struct Pattern {
    std::string text;
    // [text.size() + 1]: for each prefix, the length of the longest shorter prefix that it ends
    // with.
    std::vector<size_t> fallback;
  };

  std::vector<Pattern> patterns_;
  std::vector<int32_t> special_ids_;
  bool include_ = false;  // a stop string is part of the output
};

// Searches stop strings in a text that comes in pieces, and holds back the possible start of one:
// the output is the same for any pieces. The match that ends first wins, and the longest of several
// that end together. One for each sequence, one thread; the strings must outlive it. Pieces of
// valid UTF-8 come out in pieces of valid UTF-8.
//
//   StopMatcher matcher(&strings);
//   std::string out;
//   while (...) if (matcher.Push(piece, /*armed=*/true, &out)) return;  // `out` is the whole text
//   matcher.Finish(&out);
class StopMatcher {
 public:
  explicit StopMatcher(const StopStrings* strings);

  // Appends the settled text to `*out`. Returns true if a stop string ends within this piece:
  // `*out` then ends before the stop string, or after it if included, and nothing may follow.
  // Unless `armed`, a stop string that ends within this piece does not count.
  bool Push(std::string_view piece, bool armed, std::string* out);

  // Appends the rest. Call once, after the last piece, unless Push was true.
  void Finish(std::string* out);

  // The stop string found, once Push was true.
  const std::string& met() const { return met_; }

 private:
  const StopStrings::Pattern* Advance(char byte);

  const StopStrings* strings_;
  std::vector<size_t> matched_;  // for each string, the length of its prefix at the text's end
  std::string held_;
  std::string met_;
};

}  // namespace strata::server
