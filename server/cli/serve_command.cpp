#include <sys/resource.h>

#include <chrono>

#include "engine/base/mutex.h"
#include "kvcache/base/errors.h"
#include "server/cli/commands.h"
#include "server/cli/model_dir.h"
#include "server/cli/signal_watch.h"
#include "server/server.h"
#include "server/telemetry/process_memory.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

class Event {
 public:
  void Set() {
    {
      const MutexLock lock(mutex_);
      set_ = true;
    }
    changed_.NotifyAll();
  }
  // Waits up to `time`; returns whether it has been set.
  bool WaitFor(std::chrono::seconds time) {
    const auto limit = std::chrono::steady_clock::now() + time;
    const MutexLock lock(mutex_);
    while (!set_ && changed_.WaitUntil(mutex_, limit)) {
    }
    return set_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool set_ STRATA_GUARDED_BY(mutex_) = false;
};

void LogToStderr(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_color_mt("strata"));
  spdlog::set_level(spdlog::level::from_str(level));
}

// Each connection is a file, and one that generates over HTTP two: together more than the 1,024 of
// a usual shell, and less than a program may ask for.
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
  FreeMemory free_memory;
  Event stop;
  const SignalWatch signals([&stop] {
    spdlog::info("shutting down; a second signal ends at once");
    stop.Set();
  });
  ServeOptions found = options;
  if (options.engine.shape.empty()) {
    ASSIGN_OR_RETURN(const auto model_dir, FindModelDir(options.model_dir));
    found.model_dir = model_dir.string();
  }
  for (const std::string& name : options.unknown_variables) {
    spdlog::warn("environment: {} is set, but no option is called so", name);
  }
  ASSIGN_OR_RETURN(const auto server, Server::Start(found, [&stop] { stop.Set(); }));
  if (!server->http_address().empty()) spdlog::info("http at {}", server->http_address());
  spdlog::info("listening on {}", server->address());
  while (!stop.WaitFor(std::chrono::seconds(10))) free_memory.Return();
  server->Drain(options.drain_timeout);
  // The process ends with an error, so that its supervisor starts it again.
  RETURN_IF_ERROR(server->engine().failure());
  spdlog::info("drained");
  return absl::OkStatus();
}

}  // namespace strata::server
