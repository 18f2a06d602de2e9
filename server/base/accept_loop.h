#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"

namespace strata::server {

// A listening TCP socket and the thread that accepts its connections. It outlives a time without
// file descriptors: then connections wait in the system's queue.
class AcceptLoop {
 public:
  // Takes a socket that is connected, non-blocking only where asked for; called on the loop's
  // thread.
  using Take = std::function<void(int socket)>;
  enum class Mode { kBlocking, kNonBlocking };

  // `address` is HOST:PORT; port 0 picks a free one. UNAVAILABLE, one line with the system's
  // reason, where the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<AcceptLoop>> Start(const std::string& address, Mode mode,
                                                           Take take);
  ~AcceptLoop();  // Stop()

  // HOST:PORT with the port in use.
  const std::string& address() const { return address_; }

  // Closes the port; returns when nothing is taken any more. May be called again, from any thread
  // but the loop's.
  void Stop();

 private:
  AcceptLoop(int socket, std::string address, Mode mode, Take take);
  void Run();

  const int socket_;
  const std::string address_;
  const int flags_;  // of accept4
  const Take take_;
  Mutex mutex_;
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;    // held while thread_ is joined
  std::thread thread_;  // last: starts when the rest stands
};

}  // namespace strata::server
