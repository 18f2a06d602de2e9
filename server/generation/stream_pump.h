#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "engine/base/mutex.h"

namespace strata::server {

// The thread between the engine and the fronts: it does for each stream what the engine's thread
// must not wait for (detokenizing, starting a write), and notices readers that stand still.
//
// Threads: every method may be called from any thread, but the destructor. A stream's Pump and Tick
// are called on the pump's thread only, one at a time, without a lock held.
class StreamPump {
 public:
  using Clock = std::chrono::steady_clock;

  class Stream {
   public:
    virtual ~Stream() = default;
    // Something changed since the last call: hand over what is ready. Must not block. True when the
    // stream has ended: this was the last call, whatever wakes are still on their way.
    virtual bool Pump() = 0;
    // Called about every `tick`, between the first Wake and the end.
    virtual void Tick(Clock::time_point now) = 0;

   private:
    friend class StreamPump;
    // The first two belong to the pump's mutex, which a declaration here cannot name.
    bool queued_ = false;  // stands in ready_
    bool known_ = false;   // stands, or stood, in streams_
    bool ended_ = false;   // the pump's thread
  };

  explicit StreamPump(std::chrono::milliseconds tick);
  // REQUIRES: every stream has ended, or nobody minds that it never will.
  ~StreamPump();

  // Has Pump called soon. Wakes that come before it is called are merged into one.
  void Wake(std::shared_ptr<Stream> stream);

  // Waits until every stream has ended, or `limit` has passed; false then.
  bool WaitIdle(std::chrono::milliseconds limit);

 private:
  using Streams = std::vector<std::shared_ptr<Stream>>;

  void Run();
  Streams WaitForReady(Clock::time_point next_tick, bool* stopping);
  void PumpAll(const Streams& ready);
  Streams StreamsNow();

  const std::chrono::milliseconds tick_;
  Mutex mutex_;
  CondVar wake_;
  CondVar idle_;
  Streams ready_ STRATA_GUARDED_BY(mutex_);
  std::unordered_set<std::shared_ptr<Stream>> streams_ STRATA_GUARDED_BY(mutex_);
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when the rest stands
};

}  // namespace strata::server
