#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/base/types.h"
#include "tests/support/engine_runner.h"

namespace strata::testing {

// A gate that stays shut until it is opened, and then stays open.
class Gate {
 public:
  void Open() {
    const MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Pass() {
    const MutexLock lock(mutex_);
    while (!open_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ STRATA_GUARDED_BY(mutex_) = false;
};

// Records events, and lets the test hold the engine's thread inside a call.
class WaitingSink final : public engine::RequestSink {
 public:
  std::function<void(int)> on_token = [](int) {};  // gets the number of tokens so far
  std::function<void()> on_finished = [] {};

  void OnStarted(const engine::StartedEvent& event) override {
    const MutexLock lock(mutex_);
    recording_.OnStarted(event);
  }
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override {
    const MutexLock lock(mutex_);
    recording_.OnPromptLogprobs(std::move(logprobs));
  }
  void OnToken(engine::TokenEvent event) override {
    size_t count = 0;
    {
      const MutexLock lock(mutex_);
      recording_.OnToken(event);
      count = recording_.tokens.size();
    }
    on_token(static_cast<int>(count));
  }
  void OnFinished(engine::FinishedEvent event) override {
    {
      const MutexLock lock(mutex_);
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
    const MutexLock lock(mutex_);
    return recording_;
  }

 private:
  mutable Mutex mutex_;
  Recording recording_ STRATA_GUARDED_BY(mutex_);
  Gate finished_;
};

}  // namespace strata::testing
