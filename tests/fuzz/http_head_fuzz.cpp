// The lines of a request up to its body: if nothing is wrong with them, even the most generous
// reader finds only the lengths of a body that the server knows.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/match.h"
#include "server/base/string_util.h"
#include "server/http/http_head.h"
#include "tests/fuzz/request_fuzzing.h"

namespace {

using strata::testing::AbortUnless;

constexpr std::string_view kBlanks = std::string_view(" \t\v\f\0", 5);

bool Names(std::string_view line, std::string_view name) {
  line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
  if (!absl::StartsWithIgnoreCase(strata::server::ToAbsl(line), strata::server::ToAbsl(name))) {
    return false;
  }
  line.remove_prefix(name.size());
  const size_t end = line.find_first_not_of(kBlanks);
  return end == std::string_view::npos || line[end] == ':';
}

// Counts lengths of a body with any kind of line ending.
int NumLengths(std::string_view text) {
  int count = 0;
  while (!text.empty()) {
    const size_t end = text.find_first_of("\r\n");
    const std::string_view line = text.substr(0, end);
    if (Names(line, "Content-Length") || Names(line, "Transfer-Encoding")) ++count;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return count;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  strata::server::HttpHead head;
  size_t begin = 0;
  size_t headers = 0;  // where they begin
  for (size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n', begin)) {
    AbortUnless(head.Add(text.substr(begin, end + 1 - begin)) || begin > 0);
    begin = end + 1;
    if (headers == 0) headers = begin;
  }
  AbortUnless(head.request_id().size() <= 128);
  for (const std::string* kept :
       {&head.request_id(), &head.origin(), &head.requested_method(), &head.requested_headers()}) {
    AbortUnless(kept->find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
  }
  if (!head.error().empty()) return 0;
  const int known = (head.has_length() ? 1 : 0) + (head.chunked() ? 1 : 0);
  AbortUnless(known <= 1 && known >= (head.has_body() ? 1 : 0));
  AbortUnless(NumLengths(text.substr(headers, begin - headers)) == known);
  return 0;
}
