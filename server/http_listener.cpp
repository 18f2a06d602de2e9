#include "server/http_listener.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/listen_address.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

constexpr int kBacklog = 1024;
// Out of file descriptors or threads: how long until the next try.
constexpr milliseconds kPause{20};

constexpr std::string_view kFull =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
    "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n"
    R"({"error":{"message":"too many connections","type":"server_error","param":null,"code":"overloaded"}})";

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

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Listen(const std::string& address,
                                                                   size_t max_connections,
                                                                   Serve serve) {
  const auto parsed = ListenAddress::Parse(address);
  if (!parsed.ok()) return parsed.status();
  std::string host = parsed->host;
  if (host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* list = nullptr;
  const int failed = getaddrinfo(host.c_str(), absl::StrCat(parsed->port).c_str(), &hints, &list);
  if (failed != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", gai_strerror(failed)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, freeaddrinfo);
  const int fd = socket(list->ai_family, list->ai_socktype | SOCK_CLOEXEC, list->ai_protocol);
  if (fd < 0) return SystemError(address);
  SetOption(fd, SOL_SOCKET, SO_REUSEADDR);  // a port in TIME_WAIT is free; one in use is an error
  if (bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, kBacklog) != 0) {
    const absl::Status status = SystemError(address);
    close(fd);
    return status;
  }
  return std::unique_ptr<HttpListener>(new HttpListener(
      fd, absl::StrCat(parsed->host, ":", PortOf(fd)), max_connections, std::move(serve)));
}

HttpListener::HttpListener(int socket, std::string address, size_t max_connections, Serve serve)
    : socket_(socket),
      address_(std::move(address)),
      max_connections_(max_connections),
      serve_(std::move(serve)),
      thread_([this] { Accept(); }) {}

HttpListener::~HttpListener() {
  Stop(milliseconds(0));
  close(socket_);
}

void HttpListener::Accept() {
  for (;;) {
    const int socket = accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
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
      Take(socket);
    } else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
      std::this_thread::sleep_for(kPause);
    }
  }
}

// Starts the connection's thread, which owns it.
void HttpListener::Take(int socket) {
  const auto patience = std::chrono::steady_clock::now() + kPause;
  bool taken = false;
  MutexLock lock(mutex_);
  if (connections_.size() >= max_connections_) CloseIdle();
  while (connections_.size() >= max_connections_) {
    if (!changed_.WaitUntil(mutex_, patience)) break;
  }
  if (connections_.size() < max_connections_) {
    auto* connection = new Connection(this, socket);
    connections_.emplace(connection, true);
    try {
      std::thread([this, connection] { Run(connection); }).detach();
      taken = true;
    } catch (const std::system_error& error) {  // no more threads
      connections_.erase(connection);
      delete connection;
    }
  }
  lock.Unlock();
  if (taken) return;
  spdlog::warn("http: {} connections are open, one more was refused", max_connections_);
  send(socket, kFull.data(), kFull.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(socket, SHUT_WR);
  char unread[4096];  // what is unread at close would reset the connection and lose the answer
  while (recv(socket, unread, sizeof(unread), MSG_DONTWAIT) > 0) {
  }
  close(socket);
}

void HttpListener::Run(Connection* connection) {
  serve_(connection);
  shutdown(connection->socket_, SHUT_RDWR);
  const MutexLock lock(mutex_);
  close(connection->socket_);
  connections_.erase(connection);
  delete connection;
  changed_.NotifyAll();
}

// Has one idle connection's thread end it.
void HttpListener::CloseIdle() {
  for (auto& [connection, idle] : connections_) {
    if (!std::exchange(idle, false)) continue;
    shutdown(connection->socket_, SHUT_RDWR);
    return;
  }
}

bool HttpListener::SetIdle(Connection* connection) {
  const MutexLock lock(mutex_);
  if (stopping_) return false;
  connections_[connection] = true;
  return true;
}

bool HttpListener::ClearIdle(Connection* connection) {
  const MutexLock lock(mutex_);
  return std::exchange(connections_[connection], false);
}

bool HttpListener::Connection::WaitForRequest(milliseconds limit) {
  if (!listener_->SetIdle(this)) return false;
  pollfd wait{.fd = socket_, .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, static_cast<int>(limit.count()));
  } while (ready < 0 && errno == EINTR);
  return listener_->ClearIdle(this) && ready > 0;
}

bool HttpListener::Connection::stopping() const {
  const MutexLock lock(listener_->mutex_);
  return listener_->stopping_;
}

void HttpListener::Stop(milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    shutdown(socket_, SHUT_RDWR);  // wakes Accept, takes no more
    for (auto& [connection, idle] : connections_) {
      if (std::exchange(idle, false)) shutdown(connection->socket_, SHUT_RDWR);
    }
    while (!connections_.empty()) {
      if (!changed_.WaitUntil(mutex_, end)) break;
    }
    for (const auto& [connection, idle] : connections_) shutdown(connection->socket_, SHUT_RDWR);
    while (!connections_.empty()) changed_.Wait(mutex_);
  }
  const MutexLock join_lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace strata::server
