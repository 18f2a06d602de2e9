#include "server/base/accept_loop.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/base/listen_address.h"

namespace strata::server {
namespace {

// Pause until the next try when the process is out of file descriptors.
constexpr std::chrono::milliseconds kPause{20};

absl::Status SystemError(const std::string& address) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", address, ": ", std::generic_category().message(errno)));
}

int PortOf(int socket) {
  sockaddr_storage bound{};
  socklen_t size = sizeof(bound);
  getsockname(socket, reinterpret_cast<sockaddr*>(&bound), &size);
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

void SetOption(int socket, int level, int name) {
  const int on = 1;
  setsockopt(socket, level, name, &on, sizeof(on));
}

// The IPv4 address of a name with several addresses: clients of localhost try IPv4.
const addrinfo* Choose(const addrinfo* list) {
  for (const addrinfo* entry = list; entry != nullptr; entry = entry->ai_next) {
    if (entry->ai_family == AF_INET) return entry;
  }
  return list;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AcceptLoop>> AcceptLoop::Start(const std::string& address, Mode mode,
                                                              Take take) {
  ASSIGN_OR_RETURN(const auto parsed, ListenAddress::Parse(address));
  std::string host = parsed.host;
  if (host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(host.c_str(), absl::StrCat(parsed.port).c_str(), &hints, &list);
  if (failed != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", gai_strerror(failed)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  const addrinfo* chosen = Choose(list);
  const int fd = socket(chosen->ai_family, chosen->ai_socktype | SOCK_CLOEXEC, chosen->ai_protocol);
  if (fd < 0) return SystemError(address);
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR);  // a port in TIME_WAIT is free; one in use is an error
  if (bind(fd, chosen->ai_addr, chosen->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0) {
    const absl::Status status = SystemError(address);
    close(fd);
    return status;
  }
  return std::unique_ptr<AcceptLoop>(
      new AcceptLoop(fd, absl::StrCat(parsed.host, ":", PortOf(fd)), mode, std::move(take)));
}

AcceptLoop::AcceptLoop(int socket, std::string address, Mode mode, Take take)
    : socket_(socket),
      address_(std::move(address)),
      flags_(mode == Mode::kNonBlocking ? SOCK_CLOEXEC | SOCK_NONBLOCK : SOCK_CLOEXEC),
      take_(std::move(take)),
      thread_([this] { Run(); }) {}

AcceptLoop::~AcceptLoop() {
  Stop();
  close(socket_);
}

void AcceptLoop::Run() {
  for (;;) {
    const int socket = accept4(socket_, nullptr, nullptr, flags_);
    const int error = errno;
    {
      const MutexLock lock(mutex_);
      if (stopping_) {
        if (socket >= 0) close(socket);
        return;
      }
    }
    if (socket >= 0) {
      SetOption(socket, IPPROTO_TCP, TCP_NODELAY);
      take_(socket);
    } else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
      std::this_thread::sleep_for(kPause);
    }
  }
}

void AcceptLoop::Stop() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    shutdown(socket_, SHUT_RDWR);  // wakes Run
  }
  const MutexLock join_lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace strata::server
