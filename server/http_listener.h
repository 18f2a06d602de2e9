#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/mutex.h"

namespace strata::server {

// A listening TCP socket and a thread for each of its connections, up to a limit. A connection over
// the limit takes the place of one that is idle, waiting for its next request; where none is, it is
// told 503 with Retry-After and closed. So connections that do nothing keep nobody out.
//
// Threads: Stop from any thread.
class HttpListener {
 public:
  class Connection {
   public:
    int socket() const { return socket_; }
    // Waits for the next request's first byte. False when the connection should end instead: the
    // client has closed it, was idle for `limit`, or the listener wants the place or stops.
    bool WaitForRequest(std::chrono::milliseconds limit);
    bool stopping() const;

   private:
    friend class HttpListener;
    Connection(HttpListener* listener, int socket) : listener_(listener), socket_(socket) {}
    HttpListener* const listener_;
    const int socket_;
  };
  // Serves one connection; it is closed when this returns.
  using Serve = std::function<void(Connection* connection)>;

  // `address` is HOST:PORT; port 0 picks a free one. UNAVAILABLE, one line with the system's
  // reason, where the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Listen(const std::string& address,
                                                              size_t max_connections, Serve serve);
  ~HttpListener();  // Stop() with no patience

  // HOST:PORT with the port in use.
  const std::string& address() const { return address_; }

  // Closes the port and the idle connections, gives the others `limit` to end, then cuts them.
  // Returns when every connection's thread is done. May be called again.
  void Stop(std::chrono::milliseconds limit);

 private:
  HttpListener(int socket, std::string address, size_t max_connections, Serve serve);
  void Accept();
  void Take(int socket);
  void CloseIdle() STRATA_REQUIRES(mutex_);
  void Run(Connection* connection);
  // Marks a connection as waiting for a request; false when the listener stops.
  bool SetIdle(Connection* connection);
  // Undoes it; false when the listener has taken that for the connection's end.
  bool ClearIdle(Connection* connection);

  const int socket_;
  const std::string address_;
  const size_t max_connections_;
  const Serve serve_;
  mutable Mutex mutex_;
  CondVar changed_;
  // Whether each is idle; each owned by its thread.
  std::map<Connection*, bool> connections_ STRATA_GUARDED_BY(mutex_);
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;    // held while thread_ is joined
  std::thread thread_;  // last: starts when the rest stands
};

}  // namespace strata::server
