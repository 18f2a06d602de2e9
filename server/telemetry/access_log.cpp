#include "server/telemetry/access_log.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

constexpr size_t kMaxWaiting = 4096;
constexpr int kWriteTimeoutMs = 1000;

const char* NameOf(engine::FinishReason reason) {
  return reason == engine::FinishReason::kNone ? "refused" : engine::FinishReasonName(reason);
}

}  // namespace

std::string AccessLineJson(const AccessLine& line, std::chrono::system_clock::time_point time) {
  const engine::RequestMetrics& m = line.metrics;
  const nlohmann::ordered_json json = {
      {"time",
       absl::FormatTime("%Y-%m-%d%ET%H:%M:%E3SZ", absl::FromChrono(time), absl::UTCTimeZone())},
      {"front", line.front},
      {"request_id", line.request_id},
      {"key", line.key},
      {"status", absl::StatusCodeToString(line.status.code())},
      {"reason", NameOf(line.reason)},
      {"message", std::string(line.status.message())},
      {"prompt_tokens", m.prompt_tokens},
      {"cached_tokens", m.cached_tokens},
      {"generated_tokens", m.generated_tokens},
      {"preemptions", m.preemptions},
      {"queue_seconds", m.queue_seconds},
      {"time_to_first_token_seconds", m.time_to_first_token_seconds},
      {"total_seconds", line.total_seconds}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::unique_ptr<AccessLog>> AccessLog::Open(const std::string& path,
                                                           Metrics* metrics) {
  const int file = path == "-"
                       ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
                       : open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("access log ", path, ": ", std::generic_category().message(errno)));
  }
  return std::unique_ptr<AccessLog>(new AccessLog(file, metrics));
}

AccessLog::AccessLog(int file, Metrics* metrics)
    : file_(file), metrics_(metrics), thread_([this] { Run(); }) {}

AccessLog::~AccessLog() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
  close(file_);
}

void AccessLog::Append(AccessLine line) {
  std::string text = AccessLineJson(line, std::chrono::system_clock::now());
  {
    const MutexLock lock(mutex_);
    if (lines_.size() < kMaxWaiting) {
      lines_.push_back(std::move(text));
      text.clear();
    }
  }
  if (text.empty()) {
    wake_.NotifyOne();
  } else {
    metrics_->CountDroppedLogLine();
  }
}

void AccessLog::Run() {
  std::string line;
  bool last_chance = false;
  while (Take(&line, &last_chance)) {
    const int error = Write(absl::StrCat(torn_ ? "\n" : "", line, "\n"));
    Tell(error);
    if (error == 0) continue;
    metrics_->CountDroppedLogLine();
    if (last_chance) return;
  }
}

// Waits for the next line; false when no more will come.
bool AccessLog::Take(std::string* line, bool* stopping) {
  const MutexLock lock(mutex_);
  while (!stopping_ && lines_.empty()) wake_.Wait(mutex_);
  if (lines_.empty()) return false;
  *line = std::move(lines_.front());
  lines_.pop_front();
  *stopping = stopping_;
  return true;
}

// Writes at once if the file or pipe has room. A reader that stands still costs only this thread, a
// second a line. Returns the system's error, 0 for none.
int AccessLog::Write(const std::string& text) {
  pollfd room{.fd = file_, .events = POLLOUT, .revents = 0};
  if (poll(&room, 1, kWriteTimeoutMs) <= 0) return ETIMEDOUT;
  const ssize_t written = write(file_, text.data(), text.size());
  const int error = written < 0 ? errno : ENOSPC;  // ENOSPC: only a part found room
  const bool whole = written == static_cast<ssize_t>(text.size());
  if (whole || written > 0) torn_ = !whole;
  return whole ? 0 : error;
}

void AccessLog::Tell(int error) {
  if (losing_ == (error != 0)) return;
  losing_ = error != 0;
  if (losing_) {
    spdlog::warn("access log: {}; lines are dropped, and counted in the metrics",
                 std::generic_category().message(error));
  } else {
    spdlog::info("access log: lines are written again");
  }
}

}  // namespace strata::server
