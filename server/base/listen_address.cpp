#include "server/base/listen_address.h"

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace strata::server {

absl::StatusOr<ListenAddress> ListenAddress::Parse(const std::string& text) {
  const size_t colon = text.rfind(':');
  ListenAddress address;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &address.port) || address.port < 0 ||
      address.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not HOST:PORT with a port in 0..65535"));
  }
  address.host = text.substr(0, colon);
  if (address.host.find(':') != std::string::npos &&
      (address.host.front() != '[' || address.host.back() != ']')) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' needs brackets around an IPv6 address, as in [::1]:50051"));
  }
  return address;
}

bool ListenAddress::IsLoopback() const {
  return absl::StartsWith(host, "127.") || host == "localhost" || host == "[::1]";
}

}  // namespace strata::server
