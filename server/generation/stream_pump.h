#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "engine/base/mutex.h"

namespace strata::server {

// The thread between the engine and the fronts: for each stream it does work that the engine's
// thread must not wait for (detokenizing, starting a write), and notices clients that do not read.
//
// Threads: every method may be called from any thread, but the destructor. A stream's Pump and Tick
// are called on the pump's thread only, one at a time, without a lock held.
class StreamPump {
 public:
  using Clock = std::chrono::steady_clock;

  class Stream {
   public:
    virtual ~Stream() = default;
    // Called after a change since the last call: hands over ready output. Must not block. Returns
    // true when the stream has ended: no call follows, even if wakes are on their way.
    virtual bool Pump() = 0;
    // Called about every `tick`, between the first Wake and the end.
    virtual void Tick(Clock::time_point now) = 0;

   private:
    friend class StreamPump;
    // The first two belong to the pump's mutex, which a declaration here cannot name.
    bool queued_ = false;  // is in ready_
    bool known_ = false;   // is, or was, in streams_
    bool ended_ = false;   // the pump's thread
  };

  explicit StreamPump(std::chrono::milliseconds tick);
  // REQUIRES: every stream has ended, or may stay without an end.
  ~StreamPump();

  // Has Pump called soon. Wakes before that call are merged into one.
  void Wake(std::shared_ptr<Stream> stream);

  // Waits until every stream has ended; false if `limit` has passed before.
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
  std::thread thread_;  // last: starts when all the rest is made
};

}  // namespace strata::server
