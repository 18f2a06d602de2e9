#include "server/http_head.h"

#include "absl/strings/match.h"
#include "server/string_util.h"

namespace strata::server {

bool HttpHead::Add(std::string_view line) {
  if (num_lines_++ == 0) return true;
  const std::string_view name = line.substr(0, line.find(':'));
  const auto is = [&](const char* other) { return absl::EqualsIgnoreCase(ToAbsl(name), other); };
  // The library would parse ranges with a pattern that takes 4 MiB of stack for a line of 8 KiB,
  // and repeat an answer once for each of them; it would take forms apart, limited to 8 KiB, and
  // bodies of several parts. No route has a use for any of it.
  return !is("Range") && !is("Content-Type");
}

}  // namespace strata::server
