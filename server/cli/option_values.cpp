#include "server/cli/option_values.h"

#include <array>
#include <cctype>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace strata::server {
namespace {

struct Unit {
  const char* name;
  size_t bytes;
};
constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KB", 1000},
                                          {"MB", 1000 * 1000},
                                          {"GB", 1000 * 1000 * 1000},
                                          {"TB", size_t{1000} * 1000 * 1000 * 1000},
                                          {"KiB", size_t{1} << 10},
                                          {"MiB", size_t{1} << 20},
                                          {"GiB", size_t{1} << 30},
                                          {"TiB", size_t{1} << 40}}};

constexpr absl::Duration kLongest = absl::Hours(24);

}  // namespace

absl::StatusOr<size_t> ParseBytes(const std::string& text) {
  size_t digits = 0;
  while (digits < text.size() && std::isdigit(static_cast<unsigned char>(text[digits]))) ++digits;
  uint64_t count = 0;
  if (absl::SimpleAtoi(text.substr(0, digits), &count)) {
    for (const Unit& unit : kUnits) {
      if (text.substr(digits) != unit.name) continue;
      if (count > std::numeric_limits<int64_t>::max() / unit.bytes) break;
      return static_cast<size_t>(count) * unit.bytes;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not a size such as 64MiB, 1GiB, 500MB or 4096"));
}

std::string FormatBytes(size_t bytes) {
  const Unit* best = &kUnits.front();
  for (const Unit& unit : kUnits) {
    const bool binary = (unit.bytes & (unit.bytes - 1)) == 0;
    if (binary && bytes >= unit.bytes && bytes % unit.bytes == 0) best = &unit;
  }
  return absl::StrCat(bytes / best->bytes, best->name);
}

absl::StatusOr<std::chrono::milliseconds> ParseDuration(const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a duration such as 30s, 500ms or 2m"));
  }
  if (duration < absl::ZeroDuration() || duration > kLongest) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is outside 0s..24h"));
  }
  return absl::ToChronoMilliseconds(duration);
}

std::string FormatDuration(std::chrono::milliseconds duration) {
  return absl::FormatDuration(absl::FromChrono(duration));
}

}  // namespace strata::server
