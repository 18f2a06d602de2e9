#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <queue>
#include <unordered_map>
#include <vector>

#include "tests/load/arrivals.h"
#include "tests/load/clock.h"
#include "tests/load/record.h"
#include "tests/load/transport.h"
#include "tests/load/workload.h"

namespace strata::load {

// The times at which requests are sent, and the duration.
struct Schedule {
  // One of these three. A closed loop: this many users, each of whom sends its next request as soon
  // as the last has ended and `think` has passed; users begin evenly over `ramp`.
  int32_t users = 0;
  Time ramp{};
  std::optional<Arrivals::Options> arrivals = {};  // an open loop
  const Trace* trace = nullptr;                    // an open loop, at the times of its rows
  double trace_speed = 1;

  Time think{};                       // between turns of a talk too
  int64_t max_requests = 0;           // 0: no limit
  std::optional<Time> duration = {};  // of sending
  Time drain{};                       // for requests in flight at the duration's end
  Time limit{};                       // of one request
  int32_t max_concurrency = 0;        // in flight; other due requests wait here. 0: no limit
  Time warm_up{};                     // not measured
  Time cool_down{};                   // likewise, before the end of sending
};

// Progress of a run, for a watcher.
struct Progress {
  Time now{};
  int32_t in_flight = 0;
  int64_t sent = 0;
  const std::vector<Record>* records = nullptr;
  std::vector<size_t> ended = {};  // records that ended since the last call
  int64_t tokens = 0;              // received so far
};

// Sends a schedule's requests and records the answers. One thread: the caller's.
class Run {
 public:
  using Watch = std::function<void(const Progress&)>;  // called about every `kWatchInterval`
  static constexpr Time kWatchInterval = std::chrono::milliseconds(250);

  Run(const Schedule& schedule, Workload* workload, Transport* transport, Clock* clock);

  // Runs once; times begin at the call. `interrupted`, from any thread, ends it early. With
  // `keep_text` records hold the text.
  RunResult Go(const std::atomic<bool>& interrupted, bool keep_text = false,
               const Watch& watch = nullptr);

 private:
  // A talk whose next turn is due, or a free place for a new talk.
  struct Due {
    Time at{};
    int64_t order = 0;  // between two at one time
    std::optional<Talk> talk = {};
  };
  struct Later {
    bool operator()(const Due& a, const Due& b) const {
      return a.at != b.at ? a.at > b.at : a.order > b.order;
    }
  };
  struct Flight {
    size_t record = 0;
    Talk talk;
    std::optional<int32_t> cancel_after;
    bool cancelled = false;
    bool finished = false;          // its last message has come
    std::vector<int32_t> ids = {};  // of the answer, if the talk needs them
    std::string text = {};
  };

  Time Now();
  void Begin();
  void ArriveNext();
  void Enqueue(Time at, std::optional<Talk> talk);
  void SendDue(Time now);
  void Send(Due due);
  void Hear(const StreamEvent& event);
  void HearMessage(const StreamEvent& event, Flight* flight);
  void End(const StreamEvent& event, Flight flight);
  void Judge(const absl::Status& status, const Flight& flight, Record* record);
  void CheckEnds(Time now, bool interrupted);
  void StopSending(Time now, Time drain_until);
  bool Done(Time now) const;
  Time WakeAt() const;
  void Tell(const Watch& watch, Time now);

  const Schedule schedule_;
  Workload* const workload_;
  Transport* const transport_;
  Clock* const clock_;
  std::optional<Arrivals> arrivals_;
  bool keep_text_ = false;

  RunResult result_;
  Time zero_{};  // the clock's time at the run's beginning
  Time last_{};  // latest time of the run
  std::priority_queue<Due, std::vector<Due>, Later> due_;
  std::deque<Due> overdue_;  // in the order of becoming due
  int64_t enqueued_ = 0;
  int64_t talks_ = 0;    // begun
  int64_t arrived_ = 0;  // of the open loop
  bool sending_ = true;
  Time sent_until_{};               // set once sending is over
  Time drain_until_ = Time::max();  // set once sending is over
  bool cancelled_rest_ = false;
  Time watch_at_{};
  std::unordered_map<uint64_t, Flight> flights_;
  Time unavailable_since_ = Time::max();  // start of the time in which no server was there
  std::vector<size_t> ended_;             // since the watch's last call
  int64_t tokens_ = 0;
};

}  // namespace strata::load
