#include "server/text/byte_level.h"

#include <array>
#include <cstddef>
#include <cstdint>

#include "server/base/unicode.h"

namespace strata::server {
namespace {

// Printable bytes stand for themselves, the other 68 for U+0100 and up, in order.
constexpr bool StandsForItself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Tables {
  std::array<char16_t, 256> to_char = {};
  std::array<int16_t, 0x144> to_byte = {};  // -1: no byte

  constexpr Tables() {
    to_byte.fill(-1);
    char16_t next = 0x100;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char16_t c = StandsForItself(byte) ? static_cast<char16_t>(byte) : next++;
      to_char[byte] = c;
      to_byte[c] = static_cast<int16_t>(byte);
    }
  }
};

constexpr Tables kTables;

}  // namespace

void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char byte : bytes) {
    const char16_t c = kTables.to_char[static_cast<uint8_t>(byte)];
    if (c < 0x80) {
      out->push_back(static_cast<char>(c));
    } else {
      out->push_back(static_cast<char>(0xC0 | (c >> 6)));
      out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  }
}

void AppendFromByteLevel(std::string_view text, std::string* out) {
  const size_t start = out->size();
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = ReadUtf8(text, i);
    if (c.code_point >= kTables.to_byte.size() || kTables.to_byte[c.code_point] < 0) {
      out->resize(start);
      out->append(text);
      return;
    }
    out->push_back(static_cast<char>(kTables.to_byte[c.code_point]));
    i += c.size;
  }
}

}  // namespace strata::server
