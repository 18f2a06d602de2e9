#include "server/telemetry/trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using engine::Phase;
using engine::StepStats;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using Time = engine::Request::Time;

constexpr size_t kMaxQueued = size_t{1} << 16;
constexpr milliseconds kInterval{100};

constexpr const char* kHead =
    "[\n"
    R"({"name":"process_name","ph":"M","pid":1,"tid":1,"args":{"name":"strata"}},)"
    "\n"
    R"({"name":"thread_name","ph":"M","pid":1,"tid":1,"args":{"name":"engine"}})";

const char* NameOf(Phase phase) {
  switch (phase) {
    case Phase::kQueued:
      return "queued";
    case Phase::kPrefill:
      return "prefill";
    case Phase::kDecode:
      return "decode";
    case Phase::kPreempted:
      return "preempted";
  }
  return "?";
}

Time After(Time begin, double seconds) {
  return begin + nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

// Events of one file, as text. Times are microseconds since the file's start. Spans are cut to
// whole nanoseconds at both ends, so that nesting in time is nesting in the file.
class Text {
 public:
  Text(Time start, std::string* out) : start_(start), out_(out) {}

  void Span(const char* name, Time begin, Time end, const std::string& args) {
    absl::StrAppend(out_, ",\n{\"name\":\"", name,
                    "\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":", Micros(begin - start_),
                    ",\"dur\":", Micros(end - begin), ",\"args\":{", args, "}}");
  }
  void Counter(const char* name, Time time, const std::string& args) {
    absl::StrAppend(out_, ",\n{\"name\":\"", name,
                    "\",\"ph\":\"C\",\"pid\":1,\"ts\":", Micros(time - start_), ",\"args\":{", args,
                    "}}");
  }
  void OfTrack(char kind, const char* name, uint64_t track, Time time, const std::string& args) {
    absl::StrAppend(out_, ",\n{\"name\":\"", name, "\",\"cat\":\"request\",\"ph\":\"",
                    std::string(1, kind), "\",\"id\":", track,
                    ",\"pid\":1,\"tid\":1,\"ts\":", Micros(time - start_), ",\"args\":{", args,
                    "}}");
  }
  void Step(const StepStats& step);

 private:
  static std::string Micros(Time::duration duration) {
    const int64_t count = std::chrono::duration_cast<nanoseconds>(duration).count();
    // A request may be older than the trace.
    return count < 0 ? absl::StrCat(count / 1000)
                     : absl::StrFormat("%d.%03d", count / 1000, count % 1000);
  }

  const Time start_;
  std::string* const out_;
};

void Text::Step(const StepStats& step) {
  const Time planned = After(step.begin, step.plan_seconds);
  const Time forwarded = After(step.forward_begin, step.forward_seconds);
  const Time computed =
      After(step.forward_begin, std::max(0.0, step.forward_seconds - step.sample_seconds));
  const Time end = After(forwarded, step.commit_seconds);
  Span("step", step.begin, end,
       absl::StrCat(
           "\"number\":", step.number, ",\"sequences\":", step.sequences,
           ",\"prefill_tokens\":", step.prefill_tokens, ",\"decode_tokens\":", step.decode_tokens,
           ",\"recomputed_tokens\":", step.recomputed_tokens, ",\"preemptions\":", step.preemptions,
           ",\"cache_bytes_read\":", step.cache_bytes_read));
  Span("plan", step.begin, planned, "");
  Span("forward", step.forward_begin, computed, "");
  Span("sample", computed, forwarded, "");
  Span("commit", forwarded, end, "");
  Counter("blocks", end, absl::StrCat("\"used\":", step.blocks_used));
  Counter("sequences", end,
          absl::StrCat("\"running\":", step.running, ",\"waiting\":", step.waiting));
}

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Trace>> Trace::Open(const std::string& path,
                                                   engine::EngineObserver* next) {
  const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("trace ", path, ": ", std::generic_category().message(errno)));
  }
  return std::unique_ptr<Trace>(new Trace(file, path, next));
}

Trace::Trace(int file, std::string path, engine::EngineObserver* next)
    : file_(file), path_(std::move(path)), next_(next), thread_([this] { Run(); }) {}

Trace::~Trace() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.NotifyOne();
  thread_.join();
  close(file_);
}

void Trace::OnStep(const StepStats& step) {
  if (next_ != nullptr) next_->OnStep(step);
  Event event = {.kind = Event::Kind::kStep, .step = step};
  event.step.first_token_seconds = {};  // gone after the call
  event.step.inter_token_seconds = {};
  Push(std::move(event));
}

void Trace::OnPhase(const engine::PhaseChange& change) {
  if (next_ != nullptr) next_->OnPhase(change);
  const auto [place, is_new] = tracks_.try_emplace({change.request_id, change.index});
  Track& track = place->second;
  if (is_new) {
    track.number = ++num_tracks_;
    Push({.kind = Event::Kind::kBegin,
          .time = change.time,
          .name = "request",
          .track = track.number,
          .request_id = change.request_id,
          .index = change.index});
  } else {
    Push({.kind = Event::Kind::kEnd,
          .time = change.time,
          .name = track.phase,
          .track = track.number});
  }
  track.phase = NameOf(change.phase);
  Push({.kind = Event::Kind::kBegin,
        .time = change.time,
        .name = track.phase,
        .track = track.number});
}

void Trace::OnFinished(const std::string& request_id, const engine::FinishedEvent& event) {
  if (next_ != nullptr) next_->OnFinished(request_id, event);
  const auto found = tracks_.find({request_id, event.index});
  if (found == tracks_.end()) return;  // one of n that was never forked
  const Time now = std::chrono::steady_clock::now();
  const Track track = found->second;
  tracks_.erase(found);
  Push({.kind = Event::Kind::kEnd, .time = now, .name = track.phase, .track = track.number});
  Push({.kind = Event::Kind::kEnd,
        .time = now,
        .name = "request",
        .track = track.number,
        .reason = engine::FinishReasonName(event.reason),
        .tokens = event.metrics.generated_tokens});
}

void Trace::OnNote(const std::string& note) {
  if (next_ != nullptr) next_->OnNote(note);
}

void Trace::OnAbort(const engine::AbortStats& abort) {
  if (next_ != nullptr) next_->OnAbort(abort);
}

void Trace::Push(Event event) {
  if (failed_.load()) return;
  const MutexLock lock(mutex_);
  if (events_.size() < kMaxQueued) {
    events_.push_back(std::move(event));
  } else {
    dropped_.fetch_add(1);
  }
}

void Trace::Run() {
  Flush(kHead);
  std::vector<Event> events;
  int64_t dropped = 0;
  bool more = true;
  while (more) {
    events.clear();
    more = Take(&events);
    Write(events);
    if (dropped == 0 && dropped_.load() > 0) {
      spdlog::warn("trace {}: events come faster than they are written, some are dropped", path_);
    }
    dropped = dropped_.load();
  }
  Flush(absl::StrCat(
      R"(,
{"name":"trace_ends","ph":"i","s":"g","pid":1,"tid":1,"ts":)",
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() -
                                                            start_)
          .count(),
      R"(,"args":{"dropped_events":)", dropped, "}}\n]\n"));
  if (dropped > 0) spdlog::warn("trace {}: {} events were dropped", path_, dropped);
}

bool Trace::Take(std::vector<Event>* events) {
  const Time next = std::chrono::steady_clock::now() + kInterval;
  const MutexLock lock(mutex_);
  while (!stopping_) {
    if (!wake_.WaitUntil(mutex_, next)) break;
  }
  events->swap(events_);
  return !stopping_;
}

void Trace::Write(const std::vector<Event>& events) {
  std::string out;
  Text text(start_, &out);
  for (const Event& event : events) {
    if (event.kind == Event::Kind::kStep) {
      text.Step(event.step);
      continue;
    }
    std::string args;
    if (!event.request_id.empty()) {
      args = absl::StrCat("\"request_id\":", Quoted(event.request_id), ",\"index\":", event.index);
    } else if (*event.reason != '\0') {
      args = absl::StrCat("\"reason\":\"", event.reason, "\",\"generated_tokens\":", event.tokens);
    }
    text.OfTrack(event.kind == Event::Kind::kBegin ? 'b' : 'e', event.name, event.track, event.time,
                 args);
  }
  Flush(out);
}

void Trace::Flush(const std::string& text) {
  size_t done = 0;
  while (done < text.size() && !failed_.load()) {
    const ssize_t written = write(file_, text.data() + done, text.size() - done);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      spdlog::warn("trace {}: {}; it ends here", path_, std::generic_category().message(errno));
      failed_.store(true);
      return;
    }
    done += static_cast<size_t>(written);
  }
}

}  // namespace strata::server
