#include "server/base/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace strata::server {
namespace {

struct LeadByte {
  size_t size;         // of the whole character; 0: cannot start one
  uint8_t second_min;  // the second byte's range excludes overlong forms and surrogates
  uint8_t second_max;
};

LeadByte ClassifyLead(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

utf8proc_category_t Category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

int CombiningClass(utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; }

// Linear apart from sorting; utf8proc's own reordering is quadratic in the length of a run of
// marks.
void SortMarks(std::vector<utf8proc_int32_t>* chars) {
  for (auto begin = chars->begin(); begin != chars->end();) {
    if (CombiningClass(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, chars->end(), [](auto c) { return CombiningClass(c) == 0; });
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
}

}  // namespace

Utf8Char ReadUtf8(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const LeadByte lead = ClassifyLead(byte(0));
  if (lead.size == 0) return {};
  if (lead.size == 1) return {Utf8Char::Kind::kValid, byte(0), 1};
  char32_t code_point = byte(0) & (0x7Fu >> lead.size);
  for (size_t i = 1; i < lead.size; ++i) {
    if (position + i == text.size()) {
      return {Utf8Char::Kind::kTruncated, kReplacementCharacter, i};
    }
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (byte(i) < low || byte(i) > high) {
      return {Utf8Char::Kind::kInvalid, kReplacementCharacter, i};
    }
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  return {Utf8Char::Kind::kValid, code_point, lead.size};
}

void AppendUtf8(char32_t code_point, std::string* out) {
  std::array<utf8proc_uint8_t, 4> bytes;
  const utf8proc_ssize_t size =
      utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes.data());
  for (utf8proc_ssize_t i = 0; i < size; ++i) {
    out->push_back(static_cast<char>(bytes[static_cast<size_t>(i)]));
  }
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = ReadUtf8(text, i);
    if (c.kind != Utf8Char::Kind::kValid) return i;
    i += c.size;
  }
  return std::nullopt;
}

void TakeValidUtf8(bool at_end, std::string* bytes, std::string* out) {
  size_t taken = 0;
  while (taken < bytes->size()) {
    const Utf8Char c = ReadUtf8(*bytes, taken);
    if (c.kind == Utf8Char::Kind::kTruncated && !at_end) break;
    if (c.kind == Utf8Char::Kind::kValid) {
      out->append(*bytes, taken, c.size);
    } else {
      AppendUtf8(kReplacementCharacter, out);
    }
    taken += c.size;
  }
  bytes->erase(0, taken);
}

int64_t CountCharacters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // the first byte of a character
  });
}

bool IsWhitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  if (c == 0x85) return true;
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL ||
         category == UTF8PROC_CATEGORY_ZP;
}

bool IsWord(char32_t c) {
  switch (Category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
      return true;
    case UTF8PROC_CATEGORY_SO:  // the symbols that are Alphabetic: letters in circles and squares
      return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    default:
      return IsMark(c) || c == 0x200C || c == 0x200D;
  }
}

bool IsNumeric(char32_t c) {
  const utf8proc_category_t category = Category(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool IsMark(char32_t c) {
  const utf8proc_category_t category = Category(c);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

std::string Normalize(NormalForm form, std::string_view text) {
  if (IsAscii(text)) return std::string(text);
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const int decompose_options =
      UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);

  std::vector<utf8proc_int32_t> chars;
  chars.reserve(text.size());
  ForEachChar(text, [&](char32_t c, size_t, size_t) {
    std::array<utf8proc_int32_t, 32> parts;  // Unicode's longest decomposition has 18
    int boundary_class = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(c), parts.data(), static_cast<utf8proc_ssize_t>(parts.size()),
        static_cast<utf8proc_option_t>(decompose_options), &boundary_class);
    if (count < 0) return;
    chars.insert(chars.end(), parts.begin(), parts.begin() + count);
  });
  SortMarks(&chars);
  if (compose) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        chars.data(), static_cast<utf8proc_ssize_t>(chars.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    chars.resize(static_cast<size_t>(std::max<utf8proc_ssize_t>(count, 0)));
  }

  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : chars) AppendUtf8(static_cast<char32_t>(c), &out);
  return out;
}

std::string Lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  ForEachChar(text, [&](char32_t c, size_t, size_t) {
    if (c == 0x130) {  // the only character whose lower case is two characters
      out.append("i\xCC\x87");
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), &out);
    }
  });
  return out;
}

}  // namespace strata::server
