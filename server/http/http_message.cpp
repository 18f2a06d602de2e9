#include "server/http/http_message.h"

#include <random>

#include "absl/strings/str_format.h"
#include "server/base/json.h"

namespace strata::server {
namespace {

nlohmann::json NullIfEmpty(std::string_view text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

const char* TypeOf(int status) {
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

std::string DrawRequestId() {
  std::random_device device;
  return absl::StrFormat("req-%08x%08x", device(), device());
}

HttpReply HttpError(int status, std::string_view message, std::string_view param,
                    std::string_view code) {
  const nlohmann::json error = {{"error",
                                 {{"message", message},
                                  {"type", TypeOf(status)},
                                  {"param", NullIfEmpty(param)},
                                  {"code", NullIfEmpty(code)}}}};
  HttpReply reply{.status = status, .body = JsonLine(error)};
  if (status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (status == 429 || status == 503) reply.headers.emplace_back("Retry-After", "1");
  return reply;
}

}  // namespace strata::server
