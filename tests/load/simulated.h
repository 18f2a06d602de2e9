#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "strata/v1/inference.pb.h"
#include "tests/load/clock.h"
#include "tests/load/transport.h"

namespace strata::testing {

// A clock that stands still until a test sets it.
class SetClock final : public load::Clock {
 public:
  load::Time Now() override { return now; }
  load::Time Wall() override { return now + wall_step; }

  load::Time now{};
  load::Time wall_step{};
};

// One step of a simulated server: `after` the request, a message of `tokens` tokens, or the end if
// `tokens` is 0.
struct Reaction {
  load::Time after{};
  int32_t tokens = 0;
  absl::Status status = {};  // of the end
  bool finished = true;      // the end follows a last message
};

inline absl::Status Unavailable() { return absl::UnavailableError("UNAVAILABLE: no server"); }

// A server and its network on a SetClock: time passes only while the client waits, and exactly as
// the script says.
class SimulatedTransport final : public load::Transport {
 public:
  using Script =
      std::function<std::vector<Reaction>(uint64_t stream, const v1::GenerateRequest& request)>;
  SimulatedTransport(SetClock* clock, Script script) : clock_(clock), script_(std::move(script)) {}

  void Start(uint64_t stream, const v1::GenerateRequest& request, const std::string& session,
             load::Time limit) override {
    requests.push_back(request);
    sessions.push_back(session);
    for (Reaction& reaction : script_(stream, request)) {
      if (reaction.after < limit) Add(clock_->now + reaction.after, stream, std::move(reaction));
    }
    Add(clock_->now + limit, stream,
        {.status = absl::DeadlineExceededError("DEADLINE_EXCEEDED: late")});
  }
  void Cancel(uint64_t stream) override {
    Forget(stream);
    Add(clock_->now, stream, {.status = absl::CancelledError("cancelled")});
  }
  bool Next(load::Time until, load::StreamEvent* event) override {
    if (events_.empty() || events_.begin()->first > until) {
      clock_->now = std::max(clock_->now, until);
      return false;
    }
    const auto [at, next] = *events_.begin();
    events_.erase(events_.begin());
    clock_->now = std::max(clock_->now, at);
    Fill(next.first, next.second, event);
    return true;
  }
  load::Time Busy() const override { return {}; }

  std::vector<v1::GenerateRequest> requests;  // as they came
  std::vector<std::string> sessions;          // likewise
  std::function<void(uint64_t stream)> on_event = [](uint64_t) {};

 private:
  void Add(load::Time at, uint64_t stream, Reaction reaction) {
    events_.emplace(at, std::pair(stream, std::move(reaction)));
  }
  void Forget(uint64_t stream) {
    std::erase_if(events_, [stream](const auto& event) { return event.second.first == stream; });
  }
  void Fill(uint64_t stream, const Reaction& reaction, load::StreamEvent* event) {
    on_event(stream);
    event->stream = stream;
    event->at = clock_->now;
    event->message = nullptr;
    event->status = reaction.status;
    if (reaction.tokens > 0) {
      message_.Clear();
      for (int32_t i = 0; i < reaction.tokens; ++i) message_.mutable_delta()->add_token_ids(7);
      message_.mutable_delta()->set_text(" word");
      event->message = &message_;
    } else if (reaction.status.ok() && reaction.finished) {
      // The last message; the end comes with it.
      message_.Clear();
      message_.mutable_finished()->mutable_metrics()->set_preemptions(1);
      event->message = &message_;
      Forget(stream);
      Add(clock_->now, stream, {.finished = false});
    } else {
      Forget(stream);
    }
  }

  SetClock* const clock_;
  const Script script_;
  std::multimap<load::Time, std::pair<uint64_t, Reaction>> events_;
  v1::GenerateEvent message_;
};

// `tokens` messages of a token, the first `first` after the request, then one every `gap`.
inline std::vector<Reaction> Answer(load::Time first, load::Time gap, int32_t tokens) {
  std::vector<Reaction> reactions;
  for (int32_t i = 0; i < tokens; ++i) reactions.push_back({.after = first + gap * i, .tokens = 1});
  reactions.push_back({.after = first + gap * (tokens - 1)});
  return reactions;
}

}  // namespace strata::testing
