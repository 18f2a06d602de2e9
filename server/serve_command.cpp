#include <sys/resource.h>

#include <condition_variable>
#include <mutex>

#include "server/commands.h"
#include "server/model_dir.h"
#include "server/server.h"
#include "server/signal_watch.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

class Event {
 public:
  void Set() {
    {
      const std::lock_guard lock(mutex_);
      set_ = true;
    }
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;  // guarded by mutex_
};

void LogToStderr(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("strata"));
  spdlog::set_level(spdlog::level::from_str(level));
}

// Each connection is a file, and one that generates over HTTP two: more than the 1,024 that a shell
// often gives, and less than what it lets a program take.
void RaiseFileLimit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

}  // namespace

absl::Status RunServe(const ServeOptions& options) {
  LogToStderr(options.log_level);
  RouteLibraryLogs();
  RaiseFileLimit();
  Event stop;
  const SignalWatch signals([&stop] {
    spdlog::info("shutting down; a second signal ends at once");
    stop.Set();
  });
  const auto model_dir = FindModelDir(options.model_dir);
  if (!model_dir.ok()) return model_dir.status();
  ServeOptions found = options;
  found.model_dir = model_dir->string();
  const auto server = Server::Start(found);
  if (!server.ok()) return server.status();
  if (!(*server)->http_address().empty()) spdlog::info("http at {}", (*server)->http_address());
  spdlog::info("listening on {}", (*server)->address());
  stop.Wait();
  (*server)->Drain(options.drain_timeout);
  spdlog::info("drained");
  return absl::OkStatus();
}

}  // namespace strata::server
