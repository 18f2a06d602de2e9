#include "tests/load/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace strata::load {
namespace {

// Pause of a user after a failed request.
constexpr Time kAfterFailure = std::chrono::milliseconds(200);
// The server counts as gone after every request has found no server for this long.
constexpr Time kGone = std::chrono::seconds(3);
// Wait for the streams that are cancelled at the end.
constexpr Time kLastEnds = std::chrono::seconds(2);

}  // namespace

Run::Run(const Schedule& schedule, Workload* workload, Transport* transport, Clock* clock)
    : schedule_(schedule), workload_(workload), transport_(transport), clock_(clock) {
  if (schedule_.arrivals) arrivals_.emplace(*schedule_.arrivals);
}

// A clock that goes back is taken to stand still.
Time Run::Now() {
  const Time now = clock_->Now() - zero_;
  if (now < last_) ++result_.backward_steps;
  return last_ = std::max(last_, now);
}

RunResult Run::Go(const std::atomic<bool>& interrupted, bool keep_text, const Watch& watch) {
  keep_text_ = keep_text;
  zero_ = result_.zero = clock_->Now();
  const Time wall = clock_->Wall();
  const Time busy = transport_->Busy();
  Begin();
  for (;;) {
    const Time now = Now();
    CheckEnds(now, interrupted);
    SendDue(now);
    if (Done(now)) break;
    StreamEvent event;
    if (transport_->Next(WakeAt() + zero_, &event)) Hear(event);
    Tell(watch, Now());
  }
  const Time end = Now();
  if (sending_) StopSending(end, end);
  result_.begin = schedule_.warm_up;
  result_.end = schedule_.cool_down > Time(0) ? sent_until_ - schedule_.cool_down : end;
  result_.wall_step = clock_->Wall() - wall - end;
  if (end > Time(0)) result_.busy_share = Seconds(transport_->Busy() - busy) / Seconds(end);
  watch_at_ = end;
  Tell(watch, end);
  return std::move(result_);
}

void Run::Begin() {
  for (int32_t user = 0; user < schedule_.users; ++user) {
    Enqueue(schedule_.ramp / schedule_.users * user, {});
  }
  if (schedule_.users == 0) ArriveNext();
}

// Enqueues the open loop's next talk; its moment does not depend on any answer.
void Run::ArriveNext() {
  if (arrivals_) {
    Enqueue(arrivals_->Next(), {});
  } else if (arrived_ < std::ssize(schedule_.trace->rows)) {
    const Time at = schedule_.trace->rows[static_cast<size_t>(arrived_)].at;
    Enqueue(FromSeconds(Seconds(at) / schedule_.trace_speed), {});
  }
  ++arrived_;
}

void Run::Enqueue(Time at, std::optional<Talk> talk) {
  due_.push({.at = at, .order = enqueued_++, .talk = std::move(talk)});
}

void Run::CheckEnds(Time now, bool interrupted) {
  if (interrupted && !result_.interrupted) {
    result_.interrupted = true;
    result_.stopped = "interrupted";
    if (sending_) StopSending(now, now);
    drain_until_ = now;
  }
  if (sending_ && unavailable_since_ != Time::max() && now - unavailable_since_ >= kGone) {
    const auto failed = std::find_if(result_.records.rbegin(), result_.records.rend(),
                                     [](const Record& record) { return !record.error.empty(); });
    result_.stopped =
        absl::StrCat("the server is gone, nothing came for ",
                     std::chrono::ceil<std::chrono::seconds>(kGone).count(), " s: ", failed->error);
    StopSending(now, now);
  } else if (sending_ && schedule_.duration && now >= *schedule_.duration) {
    StopSending(*schedule_.duration, *schedule_.duration + schedule_.drain);
  }
  if (now >= drain_until_ && !cancelled_rest_) {
    cancelled_rest_ = true;
    for (const auto& [stream, flight] : flights_) transport_->Cancel(stream);
  }
}

void Run::StopSending(Time now, Time drain_until) {
  sending_ = false;
  sent_until_ = now;
  drain_until_ = drain_until;
  result_.unsent = std::ssize(overdue_);
  overdue_.clear();
  due_ = {};
}

bool Run::Done(Time now) const {
  if (flights_.empty()) return !sending_ || (due_.empty() && overdue_.empty());
  return cancelled_rest_ && now >= drain_until_ + kLastEnds;
}

Time Run::WakeAt() const {
  Time wake = watch_at_;
  if (!due_.empty()) wake = std::min(wake, due_.top().at);
  if (sending_ && schedule_.duration) wake = std::min(wake, *schedule_.duration);
  if (!cancelled_rest_) wake = std::min(wake, drain_until_);
  return std::max(wake, last_);
}

void Run::SendDue(Time now) {
  while (!due_.empty() && due_.top().at <= now) {
    const bool arrival = schedule_.users == 0 && !due_.top().talk;
    // Moving the top leaves the queue invalid only until the next line removes it.
    overdue_.push_back(std::move(const_cast<Due&>(due_.top())));
    due_.pop();
    if (arrival) ArriveNext();
  }
  while (!overdue_.empty() &&
         (schedule_.max_concurrency == 0 || std::ssize(flights_) < schedule_.max_concurrency)) {
    Due due = std::move(overdue_.front());
    overdue_.pop_front();
    Send(std::move(due));
    if (schedule_.max_requests > 0 && std::ssize(result_.records) >= schedule_.max_requests) {
      overdue_.clear();  // beyond the requested number
      return StopSending(now, Time::max());
    }
  }
}

void Run::Send(Due due) {
  Talk talk = due.talk ? *std::move(due.talk) : workload_->Begin(talks_++);
  Record& record = result_.records.emplace_back();
  record.talk = talk.number;
  record.turn = talk.turn;
  const Job job = workload_->Next(&talk);
  record.input_tokens = job.input_tokens;
  record.intended = due.at;
  const auto stream = static_cast<uint64_t>(result_.records.size() - 1);
  flights_.emplace(
      stream, Flight{.record = stream, .talk = std::move(talk), .cancel_after = job.cancel_after});
  record.sent = Now();
  transport_->Start(stream, job.request, job.session, schedule_.limit);
}

void Run::Hear(const StreamEvent& event) {
  const auto found = flights_.find(event.stream);
  if (event.message != nullptr) {
    HearMessage(event, &found->second);
    return;
  }
  Flight flight = std::move(found->second);
  flights_.erase(found);
  End(event, std::move(flight));
}

void Run::HearMessage(const StreamEvent& event, Flight* flight) {
  unavailable_since_ = Time::max();
  Record& record = result_.records[flight->record];
  const v1::GenerateEvent& message = *event.message;
  if (message.has_started()) record.input_tokens = message.started().prompt_token_ids_size();
  if (const auto& delta = message.delta(); delta.token_ids_size() > 0) {
    const Time at = std::max(last_, event.at - zero_);
    for (int32_t left = delta.token_ids_size(); left > 0; left -= Arrival::kMaxTokens) {
      record.arrivals.emplace_back(at, std::min(left, Arrival::kMaxTokens));
    }
    record.output_tokens += delta.token_ids_size();
    tokens_ += delta.token_ids_size();
    if (workload_->keeps_answers()) {
      flight->ids.insert(flight->ids.end(), delta.token_ids().begin(), delta.token_ids().end());
    }
  }
  if (workload_->keeps_answers() || keep_text_) flight->text += message.delta().text();
  if (message.has_finished()) {
    const v1::RequestMetrics& metrics = message.finished().metrics();
    const v1::CacheBytes& bytes = metrics.peak_cache_bytes();
    flight->finished = true;
    record.server = ServerSplit{.queue_seconds = metrics.queue_seconds(),
                                .prefill_seconds = metrics.prefill_seconds(),
                                .decode_seconds = metrics.decode_seconds(),
                                .cached_tokens = metrics.cached_tokens(),
                                .preemptions = metrics.preemptions(),
                                .cache_bytes = bytes.keys() + bytes.values() + bytes.scores(),
                                .plain_cache_bytes = metrics.plain_cache_bytes()};
  } else if (flight->cancel_after && record.output_tokens >= *flight->cancel_after &&
             !std::exchange(flight->cancelled, true)) {
    transport_->Cancel(event.stream);
  }
}

void Run::End(const StreamEvent& event, Flight flight) {
  Record& record = result_.records[flight.record];
  record.end = std::max(last_, event.at - zero_);
  Judge(event.status, flight, &record);
  record.arrivals.shrink_to_fit();
  ended_.push_back(flight.record);
  if (keep_text_) record.text = flight.text;
  if (!sending_) return;
  const bool failed = record.outcome == Outcome::kFailed || record.outcome == Outcome::kRejected;
  const Time next = record.end + std::max(schedule_.think, failed ? kAfterFailure : Time(0));
  const bool completed = record.outcome == Outcome::kCompleted;
  if (completed && workload_->Answer(flight.ids, flight.text, &flight.talk)) {
    Enqueue(next, std::move(flight.talk));
  } else if (schedule_.users > 0) {
    Enqueue(next, {});
  }
}

void Run::Judge(const absl::Status& status, const Flight& flight, Record* record) {
  if (status.ok() && flight.finished) {
    record->outcome = Outcome::kCompleted;
  } else if (absl::IsCancelled(status) && flight.cancelled) {
    record->outcome = Outcome::kCancelled;
  } else if (absl::IsCancelled(status) && cancelled_rest_) {
    record->outcome = Outcome::kUnfinished;
  } else {
    record->outcome = absl::IsResourceExhausted(status) ? Outcome::kRejected : Outcome::kFailed;
    record->error =
        status.ok() ? "the stream ended before its last message" : std::string(status.message());
  }
  if (absl::IsUnavailable(status)) unavailable_since_ = std::min(unavailable_since_, record->end);
}

void Run::Tell(const Watch& watch, Time now) {
  if (now < watch_at_) return;
  watch_at_ = now + kWatchInterval;
  if (!watch) return;
  watch({.now = now,
         .in_flight = static_cast<int32_t>(flights_.size()),
         .sent = std::ssize(result_.records),
         .records = &result_.records,
         .ended = std::exchange(ended_, {}),
         .tokens = tokens_});
}

}  // namespace strata::load
