#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "strata/v1/inference.pb.h"
#include "tests/load/clock.h"

namespace strata::load {

// Event of a stream: any number of messages, then one end.
struct StreamEvent {
  uint64_t stream = 0;
  Time at{};                                   // arrival
  const v1::GenerateEvent* message = nullptr;  // null: the end. Valid until the next call of Next
  absl::Status status = {};                    // of the end
};

// Streams of Generate to one server, all driven by the thread that calls Next.
class Transport {
 public:
  virtual ~Transport() = default;
  // Starts a stream, which ends with DEADLINE_EXCEEDED after `limit`. A session that is not empty
  // is sent as metadata, for a load balancer on the way.
  virtual void Start(uint64_t stream, const v1::GenerateRequest& request,
                     const std::string& session, Time limit) = 0;
  // Ends a stream soon, with CANCELLED unless it had ended before. No effect on an ended stream.
  virtual void Cancel(uint64_t stream) = 0;
  // The next event, or false at `until`. The only call that waits.
  virtual bool Next(Time until, StreamEvent* event) = 0;
  // Time that the thread has spent working, not waiting, since the transport was made.
  virtual Time Busy() const = 0;
};

}  // namespace strata::load
