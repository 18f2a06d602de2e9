#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "strata/v1/inference.pb.h"
#include "tests/load/clock.h"

namespace strata::load {

// What happens to a stream: any number of messages, then one end.
struct StreamEvent {
  uint64_t stream = 0;
  Time at{};                                   // when it came
  const v1::GenerateEvent* message = nullptr;  // null: the end. Valid until the next call of Next
  absl::Status status = {};                    // of the end
};

// Streams of Generate to one server, all driven by the thread that calls Next.
class Transport {
 public:
  virtual ~Transport() = default;
  // The stream ends with DEADLINE_EXCEEDED when it has taken `limit`. A session that is not empty
  // goes along as metadata, for a load balancer on the way.
  virtual void Start(uint64_t stream, const v1::GenerateRequest& request,
                     const std::string& session, Time limit) = 0;
  // Its end comes soon, with CANCELLED unless it had ended before. No effect on one that has.
  virtual void Cancel(uint64_t stream) = 0;
  // The next event, or false at `until`. Waits only here.
  virtual bool Next(Time until, StreamEvent* event) = 0;
  // How much of the thread's time was spent working, not waiting, since the transport was made.
  virtual Time Busy() const = 0;
};

}  // namespace strata::load
