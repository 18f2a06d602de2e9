#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/base/accept_loop.h"

namespace strata::server {

// A listening TCP socket and a thread for each of its connections, up to a limit. A connection over
// the limit takes the place of the connection that has waited longest for its next request or, if
// none waits, of the one whose request has been on its way longest. If all are being answered, the
// new one is told so and closed. So connections that send nothing, or send slowly, keep no client
// out.
//
// Threads: Stop from any thread.
class HttpListener {
 public:
  class Connection {
   public:
    int socket() const { return socket_; }
    // Waits for the next request's first byte. False if the connection should end instead: the
    // client has closed it, it was idle for `limit` (0: any time), or the listener wants the place
    // or stops.
    bool WaitForRequest(std::chrono::milliseconds limit);
    // Call when the next request's first byte is here. False if the listener wants the place.
    bool BeginRequest() { return listener_->Enter(this, State::kReading); }
    // Call when a whole request is here: the connection then keeps its place until it waits again.
    // False if the listener has taken the place.
    bool BeginAnswer() { return listener_->Enter(this, State::kAnswering); }
    bool stopping() const;

   private:
    friend class HttpListener;
    Connection(HttpListener* listener, int socket) : listener_(listener), socket_(socket) {}
    HttpListener* const listener_;
    const int socket_;
  };
  // Serves one connection; it is closed when this returns. It may be cut in the meantime.
  using Serve = std::function<void(Connection* connection)>;

  // `address` is HOST:PORT; port 0 picks a free one. UNAVAILABLE, one line with the system's
  // reason, if the address cannot be listened on. `when_full` makes the text for a connection over
  // the limit; empty: no text.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Listen(
      const std::string& address, size_t max_connections, std::function<std::string()> when_full,
      Serve serve);
  // Stop() with no patience.
  ~HttpListener() { Stop(std::chrono::milliseconds(0)); }

  // HOST:PORT with the port in use.
  const std::string& address() const { return loop_->address(); }

  // Closes the port and the idle connections, gives the others `limit` to end, then cuts them.
  // Returns when every connection's thread is done. May be called again.
  void Stop(std::chrono::milliseconds limit);

 private:
  // In the order in which places are taken away; from kAnswering on they are kept.
  enum class State { kIdle, kReading, kAnswering, kCut };
  struct Place {
    State state = State::kIdle;
    std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
  };
  HttpListener(size_t max_connections, std::function<std::string()> when_full, Serve serve)
      : max_connections_(max_connections),
        when_full_(std::move(when_full)),
        serve_(std::move(serve)) {}
  void Take(int socket);
  void FreeAPlace() STRATA_REQUIRES(mutex_);
  void Run(Connection* connection);
  // False, with nothing changed, for a connection that has been cut, or that should end while idle.
  bool Enter(Connection* connection, State state);

  const size_t max_connections_;
  const std::function<std::string()> when_full_;  // may be empty
  const Serve serve_;
  mutable Mutex mutex_;
  CondVar changed_;
  // Each owned by its thread.
  std::map<Connection*, Place> connections_ STRATA_GUARDED_BY(mutex_);
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::chrono::steady_clock::time_point next_warning_;  // of the accepting thread
  std::unique_ptr<AcceptLoop> loop_;                    // constant after Listen
};

}  // namespace strata::server
