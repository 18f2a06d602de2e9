#include "server/listen_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

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

std::string ListenAddress::WhyNotBound() const {
  std::string bare = host;
  if (bare.front() == '[') bare = bare.substr(1, bare.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(bare.c_str(), std::to_string(port).c_str(), &hints, &list);
  if (failed != 0) return gai_strerror(failed);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  const int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC, list->ai_protocol);
  if (fd < 0) return std::generic_category().message(errno);
  const int on = 1;  // as gRPC does: a port in TIME_WAIT is free
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool bound = bind(fd, list->ai_addr, list->ai_addrlen) == 0 && listen(fd, 1) == 0;
  const std::string reason =
      bound ? "refused by the system" : std::generic_category().message(errno);
  close(fd);
  return reason;
}

}  // namespace strata::server
