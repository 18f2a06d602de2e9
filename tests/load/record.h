#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/load/clock.h"

// Observations of a run, as plain values: every figure of a report is computed from these.
namespace strata::load {

// Arrival time of a message with tokens, and their number. Eight bytes, as a long run keeps
// millions: the time to the nanosecond for up to 78 hours, and up to 65,535 tokens.
class Arrival {
 public:
  static constexpr int32_t kMaxTokens = 0xffff;

  // REQUIRES: at most kMaxTokens.
  Arrival(Time at, int32_t tokens)
      : packed_(static_cast<uint64_t>(at.count()) << 16 |
                (static_cast<uint64_t>(tokens) & 0xffff)) {}
  Time at() const { return Time(static_cast<int64_t>(packed_ >> 16)); }
  int32_t tokens() const { return static_cast<int32_t>(packed_ & 0xffff); }

 private:
  uint64_t packed_;
};

enum class Outcome : uint8_t {
  kUnfinished,  // the run ended before it did
  kCompleted,
  kCancelled,  // by the load itself, according to its share of cancels
  kRejected,   // the server's queue was full
  kFailed,
};

constexpr const char* OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kUnfinished:
      return "unfinished";
    case Outcome::kCompleted:
      return "completed";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kRejected:
      return "rejected";
    case Outcome::kFailed:
      return "failed";
  }
  return "?";
}

// The server's own figures of a request, from its last message.
struct ServerSplit {
  double queue_seconds = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
  int32_t cached_tokens = 0;
  int32_t preemptions = 0;
  uint64_t cache_bytes = 0;  // the most that the request held
  uint64_t plain_cache_bytes = 0;
};

// One request. Latencies run from `intended`, so they include a client's wait for a late load.
struct Record {
  int64_t talk = 0;  // requests of one talk follow one another
  int32_t turn = 0;
  int32_t input_tokens = 0;   // the server's count; the intended number until it is known
  int32_t output_tokens = 0;  // received
  Time intended{};
  Time sent{};
  Time end{};                     // of the stream
  std::vector<Arrival> arrivals;  // messages that had tokens
  Outcome outcome = Outcome::kUnfinished;
  std::string error;  // one line, if rejected or failed
  std::string text;   // generated; kept only if asked for
  std::optional<ServerSplit> server;
};

// The server's own gauges and counters at a moment.
struct Scrape {
  Time at{};
  double running = 0;  // sequences
  double waiting = 0;
  double cache_usage = 0;  // [0, 1]: share of the blocks held by sequences
  double preemptions = 0;  // since the server began
};

struct RunResult {
  std::vector<Record> records;  // in the order they were sent
  std::vector<Scrape> scrapes;
  Time zero{};  // of the clock, when the run began; all other times count from it
  // Requests intended in [begin, end] are measured: the run without its warm-up and cool-down.
  Time begin{};
  Time end{};
  int64_t unsent = 0;  // due before the run's end, and never sent
  int64_t cut = 0;     // requests shortened to fit the model or the server's cache
  int64_t scrapes_failed = 0;
  double busy_share = 0;       // of the client's one thread, over the run
  Time wall_step{};            // change of the machine's time of day by setting it during the run
  int64_t backward_steps = 0;  // of the run's own clock; each counts as no time at all
  bool interrupted = false;    // by a signal
  std::string stopped;         // the reason in one line; empty: the run came to its end
};

}  // namespace strata::load
