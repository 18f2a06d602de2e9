#include "server/http/http_listener.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "kvcache/base/errors.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

// Time that a connection over the limit waits for the place of a connection that is told to end.
constexpr milliseconds kRoomPatience{20};
// Limits warnings, so that clients cannot fill the log.
constexpr milliseconds kFullWarnings{10000};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Listen(
    const std::string& address, size_t max_connections, std::function<std::string()> when_full,
    Serve serve) {
  std::unique_ptr<HttpListener> listener(
      new HttpListener(max_connections, std::move(when_full), std::move(serve)));
  ASSIGN_OR_RETURN(auto loop,
                   AcceptLoop::Start(address, AcceptLoop::Mode::kBlocking,
                                     [self = listener.get()](int socket) { self->Take(socket); }));
  listener->loop_ = std::move(loop);
  return listener;
}

// Starts the connection's thread, which owns it.
void HttpListener::Take(int socket) {
  const auto patience = std::chrono::steady_clock::now() + kRoomPatience;
  bool taken = false;
  MutexLock lock(mutex_);
  if (connections_.size() >= max_connections_) FreeAPlace();
  while (connections_.size() >= max_connections_) {
    if (!changed_.WaitUntil(mutex_, patience)) break;
  }
  if (connections_.size() < max_connections_) {
    auto* connection = new Connection(this, socket);
    connections_.emplace(connection, Place{});
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
  if (const auto now = std::chrono::steady_clock::now(); now >= next_warning_) {
    next_warning_ = now + kFullWarnings;
    spdlog::warn("http: {} connections are open, one more was refused", max_connections_);
  }
  const std::string told = when_full_ ? when_full_() : "";
  send(socket, told.data(), told.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  shutdown(socket, SHUT_WR);
  char unread[4096];  // unread bytes at close would reset the connection and lose the answer
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

// Has the thread of the least busy connection end that connection.
void HttpListener::FreeAPlace() {
  const auto order = [](const auto& entry) {
    return std::pair(entry.second.state, entry.second.since);
  };
  const auto least = std::ranges::min_element(connections_, {}, order);
  if (least == connections_.end() || least->second.state >= State::kAnswering) return;
  least->second.state = State::kCut;
  shutdown(least->first->socket_, SHUT_RDWR);
}

bool HttpListener::Enter(Connection* connection, State state) {
  const MutexLock lock(mutex_);
  Place& place = connections_[connection];
  if (place.state == State::kCut || (stopping_ && state == State::kIdle)) return false;
  place = {.state = state};
  return true;
}

bool HttpListener::Connection::WaitForRequest(milliseconds limit) {
  if (!listener_->Enter(this, State::kIdle)) return false;
  pollfd wait{.fd = socket_, .events = POLLIN, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, limit.count() == 0 ? -1 : static_cast<int>(limit.count()));
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && BeginRequest();
}

bool HttpListener::Connection::stopping() const {
  const MutexLock lock(listener_->mutex_);
  return listener_->stopping_;
}

void HttpListener::Stop(milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  {
    const MutexLock lock(mutex_);
    stopping_ = true;  // no connection becomes idle from now on
  }
  if (loop_) loop_->Stop();
  const MutexLock lock(mutex_);
  for (auto& [connection, place] : connections_) {
    if (place.state != State::kIdle) continue;
    place.state = State::kCut;
    shutdown(connection->socket_, SHUT_RDWR);
  }
  while (!connections_.empty()) {
    if (!changed_.WaitUntil(mutex_, end)) break;
  }
  for (const auto& [connection, place] : connections_) shutdown(connection->socket_, SHUT_RDWR);
  while (!connections_.empty()) changed_.Wait(mutex_);
}

}  // namespace strata::server
