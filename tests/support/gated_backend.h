#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "tests/support/null_backend.h"

namespace strata::testing {

// Holds the steps of an engine until they are let through, like a device that stands still. Any
// thread.
class Gate {
 public:
  // Waits until a step is held here.
  void Await() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return standing_; });
  }
  // Lets one step through: the held one or the next.
  void LetOne() {
    const std::lock_guard lock(mutex_);
    ++passes_;
    standing_ = false;
    changed_.notify_all();
  }
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    standing_ = passes_ == 0;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_ || passes_ > 0; });
    standing_ = false;
    if (!open_) --passes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool standing_ = false;
  bool open_ = false;
  int64_t passes_ = 0;
};

// A backend that does nothing, once the gate lets it. `gate` must outlive it.
class GatedBackend final : public NullBackend {
 public:
  explicit GatedBackend(Gate* gate) : gate_(gate) {}
  void Embed(const kernels::Matrix&, std::span<const int32_t>, kernels::Rows) override {
    gate_->Pass();
  }

 private:
  Gate* const gate_;
};

}  // namespace strata::testing
