#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"

namespace strata::server {

// A listening TCP socket and the thread that accepts its connections. While the process has no file
// descriptors left, connections wait in the system's queue.
class AcceptLoop {
 public:
  // Takes a connected socket, non-blocking in that mode only; called on the loop's thread.
  using Take = std::function<void(int socket)>;
  enum class Mode { kBlocking, kNonBlocking };

  // `address` is HOST:PORT; port 0 picks a free one. UNAVAILABLE, one line with the system's
  // reason, if the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<AcceptLoop>> Start(const std::string& address, Mode mode,
                                                           Take take);
  ~AcceptLoop();  // Stop()

  // HOST:PORT with the port in use.
  const std::string& address() const { return address_; }

  // Closes the port; no Take runs after it returns. May be called again, from any thread but the
  // loop's.
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
  std::thread thread_;  // last: starts when all the rest is made
};

}  // namespace strata::server
