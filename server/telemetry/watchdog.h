#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "engine/base/mutex.h"
#include "engine/serve/engine.h"
#include "server/telemetry/health.h"

namespace strata::server {

// Decides from looks at the engine whether it stands still: work is pending and no step has ended
// for `limit`. One thread.
class StallDetector {
 public:
  using Time = engine::Request::Time;
  explicit StallDetector(std::chrono::milliseconds limit) : limit_(limit) {}

  // Looks come in order of time. Returns whether the engine stands still now.
  bool Look(const engine::Engine::Load& load, Time now);
  bool stalled() const { return stalled_; }

 private:
  const std::chrono::milliseconds limit_;
  int64_t steps_ = -1;  // at the last look
  Time progress_;       // the last look at which a step had ended, or nothing was pending
  bool stalled_ = false;
};

// One line that names the step: "step 7 has run for 61.2 s (3 sequences run, 2 wait)".
std::string DescribeStall(const engine::Engine::Load& load, StallDetector::Time now);

// Looks at the engine on a thread of its own, and reports when it stops, when it goes on, and when
// its device has failed.
class Watchdog {
 public:
  // `on_change` is called on the watchdog's thread, alternately with kStalled and kServing, or with
  // kFailed as the last call. The engine must outlive the watchdog.
  Watchdog(const engine::Engine* engine, std::chrono::milliseconds limit,
           std::function<void(Health)> on_change);
  ~Watchdog();

 private:
  void Run(std::chrono::milliseconds limit);
  bool StopsWithin(std::chrono::milliseconds interval);

  const engine::Engine* const engine_;
  const std::function<void(Health)> on_change_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when all the rest is made
};

}  // namespace strata::server
