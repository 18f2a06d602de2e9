#include "server/http/cors.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace strata::server {
namespace {

// Headers that pages usually send, for a preflight that names none.
constexpr char kUsualHeaders[] = "authorization, content-type, x-request-id";
constexpr char kMethods[] = "GET, HEAD, POST, OPTIONS";
constexpr char kMaxAgeSeconds[] = "600";
// Headers that pages may read beyond those they may always read.
constexpr char kExposed[] = "x-request-id, retry-after";

bool IsOneOf(char c, std::string_view others) {
  const auto byte = static_cast<unsigned char>(c);
  return absl::ascii_islower(byte) || absl::ascii_isdigit(byte) ||
         others.find(c) != std::string_view::npos;
}

bool IsOrigin(std::string_view text) {
  const size_t end = text.find("://");
  if (end == 0 || end == std::string_view::npos) return false;
  const std::string_view scheme = text.substr(0, end);
  std::string_view host = text.substr(end + 3);
  if (!std::ranges::all_of(scheme, [](char c) { return IsOneOf(c, "+.-"); })) return false;
  if (!std::ranges::all_of(host, [](char c) { return IsOneOf(c, ".-_:[]"); })) return false;
  const bool has_default_port =
      (scheme == "https" && host.ends_with(":443")) || (scheme == "http" && host.ends_with(":80"));
  return !host.empty() && !host.ends_with(':') && !has_default_port;
}

// Whether `text` is a list of names of headers, safe to send back.
bool IsNames(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    return IsOneOf(absl::ascii_tolower(static_cast<unsigned char>(c)), "-_, ");
  });
}

}  // namespace

absl::Status CheckOrigin(const std::string& text) {
  if (text == "*" || IsOrigin(text)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "'", text, "' is not * or an origin as browsers write it, such as https://chat.example.com"));
}

bool Cors::Allows(std::string_view origin) const {
  return any() || std::ranges::find(origins_, origin) != origins_.end();
}

Cors::Headers Cors::ForAnswer(std::string_view origin) const {
  Headers headers;
  if (!enabled()) return headers;
  if (!any()) headers.emplace_back("Vary", "Origin");  // for caches on the way
  if (!Allows(origin)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin", any() ? "*" : origin);
  headers.emplace_back("Access-Control-Expose-Headers", kExposed);
  return headers;
}

Cors::Headers Cors::ForPreflight(std::string_view origin, std::string_view requested) const {
  if (!enabled() || !Allows(origin)) return {};
  const bool can_be_sent_back = !requested.empty() && IsNames(requested);
  return {
      {"Access-Control-Allow-Methods", kMethods},
      {"Access-Control-Allow-Headers", can_be_sent_back ? std::string(requested) : kUsualHeaders},
      {"Access-Control-Max-Age", kMaxAgeSeconds}};
}

}  // namespace strata::server
