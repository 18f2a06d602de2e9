#pragma once

#include <csignal>
#include <functional>
#include <thread>

namespace strata::server {

// SIGTERM and SIGINT as calls on a thread of their own: the first calls `on_first`, a second ends
// the process at once with code 1. Make it before any other thread, so that they inherit the mask;
// SIGPIPE is ignored from then on.
class SignalWatch {
 public:
  explicit SignalWatch(std::function<void()> on_first);

 private:
  const sigset_t signals_;
  std::jthread thread_;
};

}  // namespace strata::server
