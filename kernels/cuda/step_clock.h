#pragma once

#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cuda/stream.h"

namespace strata::kernels::cuda {

// Measures device time of steps by events in the stream: from the first work after a step's inputs
// have arrived, to the last. Does nothing unless opened. At most kMostUntaken steps are open.
class StepClock {
 public:
  void Open(Stream& stream) {
    for (Events& events : events_) {
      events.begin.Open(stream, cudaEventDefault);
      events.end.Open(stream, cudaEventDefault);
    }
    is_open_ = stream.ok();
  }

  void Begin(Stream& stream) {
    if (is_open_) stream.set_begin(Latest().begin.handle());
  }
  // Ends the step that began last. REQUIRES: all its work is in the stream.
  void End(Stream& stream) {
    if (!is_open_ || !stream.ok()) return;
    stream.Check(cudaEventRecord(Latest().end.handle(), stream.handle()), "timing");
    ++num_ended_;
  }
  // Seconds of the oldest step that was not taken. REQUIRES: the host has waited for that step.
  double Take(Stream& stream) {
    if (!is_open_ || !stream.ok()) return 0;
    const Events& events = events_[num_taken_++ % Backend::kMostUntaken];
    float milliseconds = 0;
    stream.Check(cudaEventElapsedTime(&milliseconds, events.begin.handle(), events.end.handle()),
                 "timing");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  struct Events {
    Event begin;
    Event end;
  };
  const Events& Latest() const { return events_[num_ended_ % Backend::kMostUntaken]; }

  bool is_open_ = false;
  Events events_[Backend::kMostUntaken];
  int64_t num_ended_ = 0;
  int64_t num_taken_ = 0;
};

}  // namespace strata::kernels::cuda
