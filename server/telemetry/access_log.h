#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/base/types.h"
#include "server/telemetry/metrics.h"

namespace strata::server {

// One request that has ended, or was refused.
struct AccessLine {
  std::string front;  // "grpc", "http"
  std::string request_id;
  std::string key;  // its name in the key file; empty: no key was required, or none was known
  absl::Status status;
  engine::FinishReason reason = engine::FinishReason::kNone;
  double total_seconds = 0;
  engine::RequestMetrics metrics;
};

// {"time":"2026-01-31T12:00:00.123Z","front":"grpc","request_id":"..","key":"alice","status":"OK","reason":"stop",
//  "message":"","prompt_tokens":..,"cached_tokens":..,"generated_tokens":..,"preemptions":..,
//  "queue_seconds":..,"time_to_first_token_seconds":..,"total_seconds":..}
std::string AccessLineJson(const AccessLine& line, std::chrono::system_clock::time_point time);

// One line of JSON for each request, written on a thread of its own, so that a slow disk holds up
// nothing. A line that cannot be written (the disk is full, the pipe has no reader, 4,096 lines
// already wait) is dropped and counted; serving goes on, and so does the log when there is room
// again. The server's own log gets one warning when dropping begins and one line when it ends.
//
// Threads: Append from any thread.
class AccessLog {
 public:
  // Appends to the file at `path`, "-" is stdout. `metrics` must outlive the log. One line naming
  // the path and the system's reason if it cannot be opened.
  static absl::StatusOr<std::unique_ptr<AccessLog>> Open(const std::string& path, Metrics* metrics);
  ~AccessLog();  // writes waiting lines, as far as the file takes them without delay

  void Append(AccessLine line);

 private:
  AccessLog(int file, Metrics* metrics);
  void Run();
  bool Take(std::string* line, bool* stopping);
  int Write(const std::string& text);
  void Tell(int error);

  const int file_;
  Metrics* const metrics_;
  // The thread's.
  bool torn_ = false;    // the last line was written in part
  bool losing_ = false;  // the last line could not be written
  Mutex mutex_;
  CondVar wake_;
  std::deque<std::string> lines_ STRATA_GUARDED_BY(mutex_);
  bool stopping_ STRATA_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: starts when all the rest is made
};

}  // namespace strata::server
