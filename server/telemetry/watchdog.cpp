#include "server/telemetry/watchdog.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "spdlog/spdlog.h"

namespace strata::server {

using std::chrono::milliseconds;

bool StallDetector::Look(const engine::Engine::Load& load, Time now) {
  const bool pending = load.stepping || load.running > 0 || load.waiting > 0;
  if (!pending || load.steps != steps_) {
    steps_ = load.steps;
    progress_ = now;
  }
  stalled_ = pending && now - progress_ >= limit_;
  return stalled_;
}

std::string DescribeStall(const engine::Engine::Load& load, StallDetector::Time now) {
  const std::string pending =
      absl::StrFormat("(%d sequences run, %d wait)", load.running, load.waiting);
  if (!load.stepping) return absl::StrFormat("no step since step %d %s", load.steps, pending);
  const double seconds = std::chrono::duration<double>(now - load.step_began).count();
  return absl::StrFormat("step %d has run for %.1f s %s", load.steps + 1, seconds, pending);
}

Watchdog::Watchdog(const engine::Engine* engine, milliseconds limit,
                   std::function<void(Health)> on_change)
    : engine_(engine), on_change_(std::move(on_change)), thread_([this, limit] { Run(limit); }) {}

Watchdog::~Watchdog() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
}

void Watchdog::Run(milliseconds limit) {
  const milliseconds interval = std::clamp(limit / 8, milliseconds(5), milliseconds(1000));
  StallDetector detector(limit);
  while (!StopsWithin(interval)) {
    if (const absl::Status failure = engine_->failure(); !failure.ok()) {
      spdlog::critical("watchdog: the device has failed: {}", std::string(failure.message()));
      on_change_(Health::kFailed);
      return;
    }
    const engine::Engine::Load load = engine_->load();
    const auto now = std::chrono::steady_clock::now();
    const bool was_stalled = detector.stalled();
    if (detector.Look(load, now) == was_stalled) continue;
    if (was_stalled) {
      spdlog::warn("watchdog: the engine goes on, step {} has ended", load.steps);
    } else {
      spdlog::error("watchdog: {}", DescribeStall(load, now));
    }
    on_change_(was_stalled ? Health::kServing : Health::kStalled);
  }
}

bool Watchdog::StopsWithin(milliseconds interval) {
  const auto end = std::chrono::steady_clock::now() + interval;
  const MutexLock lock(mutex_);
  while (!stopping_) {
    if (!wake_.WaitUntil(mutex_, end)) break;
  }
  return stopping_;
}

}  // namespace strata::server
