#include "server/text/regex_syntax.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "server/base/string_util.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

// Members of a character class. PCRE2's own \s also has U+180E; its \w, and so its \b, lacks marks
// and has every number. Of numbers Oniguruma only has Latin-1's superscripts and fractions.
constexpr std::string_view kWordMembers =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";

// Replacement of the escape \`letter` inside a class; empty if PCRE2 reads it alike.
std::string_view Members(char letter) {
  switch (letter) {
    case 's':
      return R"(\p{White_Space})";
    case 'S':
      return R"(\P{White_Space})";
    case 'w':
      return kWordMembers;
    case 'h':
      return "0-9a-fA-F";
    default:
      return {};
  }
}

// Replacement of the escape outside a class; empty if PCRE2 reads it alike.
std::string Atom(char letter) {
  const std::string word = Concat("[", kWordMembers, "]");
  switch (letter) {
    case 'W':
      return Concat("[^", kWordMembers, "]");
    case 'H':
      return "[^0-9a-fA-F]";
    case 'b':
      return Concat("(?:(?<=", word, ")(?!", word, ")|(?<!", word, ")(?=", word, "))");
    case 'B':
      return Concat("(?:(?<=", word, ")(?=", word, ")|(?<!", word, ")(?!", word, "))");
    default:
      return Members(letter).empty() ? "" : Concat("[", Members(letter), "]");
  }
}

class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (position_ < pattern_.size()) {
      absl::Status status = absl::OkStatus();
      switch (pattern_[position_]) {
        case '\\':
          Escape();
          break;
        case '[':
          status = CharacterClass();
          break;
        case '(':
          status = OpenGroup();
          break;
        case ')':
          CloseGroup();
          break;
        case '{':
          Interval();
          break;
        case '*':
        case '+':
        case '?':
          Copy(1);  // a quantifier belongs to the atom before it
          break;
        default:
          CopyCharacter();
      }
      if (!status.ok()) return status;
    }
    return out_;
  }

 private:
  absl::Status Refuse(std::string_view what) const {
    return absl::InvalidArgumentError(
        Concat(what, " at offset ", position_, " of the pattern is not supported"));
  }

  std::string_view Rest() const { return pattern_.substr(position_); }

  void Copy(size_t count) {
    out_.append(pattern_.substr(position_, count));
    position_ += count;
  }

  // The character after the backslash.
  char EscapedLetter() const { return Rest().size() > 1 ? Rest()[1] : '\0'; }

  void StartAtom() { atom_start_ = out_.size(); }

  void CopyCharacter() {
    StartAtom();
    Copy(ReadUtf8(pattern_, position_).size);
  }

  // Length of an escape, including an argument in braces: \p{Lu}, \x{85}.
  size_t EscapeLength() const {
    const std::string_view rest = Rest();
    if (rest.size() < 3 || rest[2] != '{' || !absl::StrContains("pPxoNgk", rest[1])) {
      return rest.size() < 2 ? rest.size() : 2;
    }
    const size_t close = rest.find('}');
    return close == std::string_view::npos ? rest.size() : close + 1;
  }

  void CopyEscape() {
    const std::string_view digits = Rest().substr(std::min<size_t>(Rest().size(), 2), 4);
    if (Rest().starts_with("\\u") && digits.size() == 4 &&
        std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) {
      out_ += Concat("\\x{", digits, "}");
      position_ += 6;
    } else {
      Copy(EscapeLength());
    }
  }

  void Escape() {
    StartAtom();
    const std::string atom = Atom(EscapedLetter());
    if (atom.empty()) {
      CopyEscape();
    } else {
      out_ += atom;
      position_ += 2;
    }
  }

  absl::Status CharacterClass() {
    StartAtom();
    Copy(1);
    if (Rest().starts_with("^")) Copy(1);
    if (Rest().starts_with("]")) return Refuse("an empty character class");
    while (position_ < pattern_.size() && pattern_[position_] != ']') {
      if (Rest().starts_with("[:")) {
        const size_t close = Rest().find(":]");
        if (close == std::string_view::npos) return Refuse("a nested character class");
        Copy(close + 2);
      } else if (pattern_[position_] == '[') {
        return Refuse("a nested character class");
      } else if (Rest().starts_with("&&")) {
        return Refuse("an intersection of character classes");
      } else if (pattern_[position_] == '\\') {
        const std::string_view members = Members(EscapedLetter());
        if (!members.empty()) {
          out_ += members;
          position_ += 2;
        } else if (EscapedLetter() == 'W' || EscapedLetter() == 'H') {
          return Refuse("\\W or \\H in a character class");
        } else {
          CopyEscape();
        }
      } else {
        Copy(1);
      }
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status OpenGroup() {
    if (Rest().starts_with("(*")) return Refuse("\"(*\"");
    group_starts_.push_back(out_.size());
    StartAtom();
    Copy(1);
    if (!Rest().starts_with("?")) return absl::OkStatus();
    Copy(1);
    for (size_t i = 0; i < Rest().size(); ++i) {
      const char c = Rest()[i];
      if (c == 'm') return Refuse("the inline option m");
      if (c != 'i' && c != 'x' && c != '-') break;
    }
    // The text up to the colon of options, or to the "=" or "!" of a lookaround, is no atom.
    size_t count = 0;
    while (count < Rest().size() && absl::StrContains("ix-:=!<>", Rest()[count])) ++count;
    Copy(count);
    return absl::OkStatus();
  }

  void CloseGroup() {
    if (!group_starts_.empty()) {
      atom_start_ = group_starts_.back();
      group_starts_.pop_back();
    }
    Copy(1);
  }

  // "{2}", "{1,}", "{1,3}" and, in Oniguruma, "{,3}"; anything else is text.
  void Interval() {
    const std::string_view rest = Rest();
    const size_t close = rest.find_first_not_of("0123456789,", 1);
    const bool interval = close != std::string_view::npos && rest[close] == '}' && close > 1 &&
                          rest.substr(1, close - 1) != ",";
    if (!interval) {
      CopyCharacter();
      return;
    }
    std::string bounds(rest.substr(0, close + 1));
    if (rest[1] == ',') bounds.insert(size_t{1}, size_t{1}, '0');
    position_ += close + 1;
    if (Rest().starts_with("+")) {
      out_.insert(atom_start_, "(?:");
      out_ += Concat(bounds, ")");
    } else {
      out_ += bounds;
    }
  }

  const std::string_view pattern_;
  size_t position_ = 0;
  std::string out_;
  size_t atom_start_ = 0;  // in out_, of the atom that a quantifier would apply to
  std::vector<size_t> group_starts_;
};

}  // namespace

absl::StatusOr<std::string> TranslateOniguruma(std::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace strata::server
