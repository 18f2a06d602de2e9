#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::server {

// Bytes [begin, end) of a text.
struct TextRange {
  size_t begin = 0;
  size_t end = 0;

  size_t size() const { return end - begin; }
  friend bool operator==(const TextRange&, const TextRange&) = default;
};

// A pattern of a tokenizer file, on PCRE2. The files are written for Oniguruma. Syntax that the two
// read differently is rewritten (\s, \w, \b, \h, "x{1,3}+"); syntax that cannot be rewritten is
// refused at Compile: nested and intersected character classes, the inline option m, and text that
// starts with "(*". Immutable; any thread.
class Regex {
 public:
  // INVALID_ARGUMENT with PCRE2's message and the offset.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

 private:
  friend class RegexMatcher;
  struct Code;
  explicit Regex(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

// The buffers of a search; one is reused over many texts. One thread. The regex must outlive it.
class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;
  ~RegexMatcher();

  // Replaces `*matches` with the matches in `text`, leftmost first, without overlap; an empty match
  // counts unless it touches the match before it. INVALID_ARGUMENT for a pattern that backtracks
  // without end. REQUIRES: valid UTF-8.
  absl::Status FindAll(std::string_view text, std::vector<TextRange>* matches);

 private:
  struct Buffers;
  const Regex& regex_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace strata::server
