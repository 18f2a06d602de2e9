#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

// UTF-8 and character classes, as the tokenizer and the detokenizer need them. Every function is
// pure and may be called from any thread.
namespace strata::server {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

// The bytes at one position of a UTF-8 text.
struct Utf8Char {
  enum class Kind {
    kValid,
    kTruncated,  // the text ends inside a character that more bytes could complete
    kInvalid,    // no further bytes could make this valid
  };
  Kind kind = Kind::kInvalid;
  char32_t code_point = kReplacementCharacter;  // U+FFFD unless valid
  size_t size = 1;  // bytes; if not valid, of the longest start of some valid character
};

// REQUIRES: position < text.size().
Utf8Char ReadUtf8(std::string_view text, size_t position);

// REQUIRES: a scalar value (no surrogate, at most U+10FFFF).
void AppendUtf8(char32_t code_point, std::string* out);

// Offset of the first byte that is not part of a valid character.
std::optional<size_t> FindInvalidUtf8(std::string_view text);

// Moves the settled prefix of `*bytes` to the end of `*out`, with U+FFFD for each invalid sequence.
// The rest is the start of a character that later bytes may complete, at most three bytes; with
// `at_end` it becomes U+FFFD too.
//
//   std::string bytes = "caf\xC3", text;
//   TakeValidUtf8(/*at_end=*/false, &bytes, &text);  // text "caf", bytes "\xC3"
void TakeValidUtf8(bool at_end, std::string* bytes, std::string* out);

// REQUIRES: valid UTF-8.
int64_t CountCharacters(std::string_view text);

// Calls f(code_point, begin, end) for each character. REQUIRES: valid UTF-8.
template <typename F>
void ForEachChar(std::string_view text, F&& f) {
  for (size_t begin = 0; begin < text.size();) {
    const Utf8Char c = ReadUtf8(text, begin);
    f(c.code_point, begin, begin + c.size);
    begin += c.size;
  }
}

bool IsWhitespace(char32_t c);   // property White_Space
bool IsWord(char32_t c);         // \w of UTS #18: Alphabetic, M, Nd, Pc, joiners
bool IsNumeric(char32_t c);      // categories Nd, Nl, No
bool IsPunctuation(char32_t c);  // categories P*, and ASCII's symbols
bool IsMark(char32_t c);         // categories M*

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Linear except for a sort of each run of combining marks. REQUIRES: valid UTF-8.
std::string Normalize(NormalForm form, std::string_view text);

// Each character's full lower case, without regard to its neighbours. REQUIRES: valid UTF-8.
std::string Lowercase(std::string_view text);

}  // namespace strata::server
