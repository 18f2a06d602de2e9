#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/types.h"
#include "tests/support/engine_runner.h"

namespace strata::testing {

// A gate that is shut until it is opened for good.
class Gate {
 public:
  void Open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// Records, and lets the test hold the engine's thread inside a call.
class WaitingSink final : public engine::RequestSink {
 public:
  std::function<void(int)> on_token = [](int) {};  // with the number of tokens so far
  std::function<void()> on_finished = [] {};

  void OnStarted(const engine::StartedEvent& event) override {
    const std::lock_guard lock(mutex_);
    recording_.OnStarted(event);
  }
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override {
    const std::lock_guard lock(mutex_);
    recording_.OnPromptLogprobs(std::move(logprobs));
  }
  void OnToken(const engine::TokenEvent& event) override {
    size_t count = 0;
    {
      const std::lock_guard lock(mutex_);
      recording_.OnToken(event);
      count = recording_.tokens.size();
    }
    on_token(static_cast<int>(count));
  }
  void OnFinished(const engine::FinishedEvent& event) override {
    {
      const std::lock_guard lock(mutex_);
      recording_.OnFinished(event);
    }
    finished_.Open();
    on_finished();
  }

  // Waits for the end.
  Recording Result() {
    finished_.Pass();
    return Now();
  }
  Recording Now() const {
    const std::lock_guard lock(mutex_);
    return recording_;
  }

 private:
  mutable std::mutex mutex_;
  Recording recording_;
  Gate finished_;
};

}  // namespace strata::testing
