#include "server/cli/signal_watch.h"

#include <cstdlib>
#include <ctime>
#include <utility>

namespace strata::server {
namespace {

constexpr timespec kPoll{.tv_sec = 0, .tv_nsec = 50'000'000};  // bounds the wait for the join

sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

}  // namespace

SignalWatch::SignalWatch(std::function<void()> on_first)
    : signals_(BlockSignals()),
      thread_([this, on_first = std::move(on_first)](const std::stop_token& stop) {
        for (int seen = 0; !stop.stop_requested();) {
          if (sigtimedwait(&signals_, nullptr, &kPoll) < 0) continue;  // none yet
          if (++seen > 1) std::_Exit(1);
          on_first();
        }
      }) {}

}  // namespace strata::server
