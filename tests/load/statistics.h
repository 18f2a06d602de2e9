#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/load/record.h"

// What a run comes to. Pure functions of its records; every figure is exact, from all samples.
namespace strata::load {

// Of samples in one unit. Percentiles lie between the two samples next to them, as numpy's do.
struct Summary {
  int64_t count = 0;
  double mean = 0;
  double deviation = 0;  // of the samples, not of a population behind them
  double max = 0;
  std::vector<std::pair<double, double>> percentiles = {};  // of kPercentiles
};
inline constexpr double kPercentiles[] = {50, 90, 95, 99, 99.9};

Summary Summarize(std::vector<double> samples);
// REQUIRES: sorted, not empty; `percent` in [0, 100].
double Percentile(const std::vector<double>& sorted, double percent);

// What a request must keep to count as good. Milliseconds.
struct Slo {
  std::optional<double> ttft = {}, tpot = {}, e2el = {};
  bool any() const { return ttft || tpot || e2el; }
};
// "ttft:200", "tpot:50", "e2el:3000". INVALID_ARGUMENT naming the text.
absl::StatusOr<Slo> ParseSlo(const std::vector<std::string>& pairs);

// Of a record that has arrivals, in milliseconds from when it was meant to be sent.
double FirstTokenMs(const Record& record);
std::optional<double> SecondTokenMs(const Record& record);
double EndMs(const Record& record);
// Mean time between its tokens; nothing where it has one.
std::optional<double> PerTokenMs(const Record& record);
bool MeetsSlo(const Record& record, const Slo& slo);

// One kind of latency.
struct Latency {
  std::string key;    // "ttft"
  std::string title;  // "Time to first token"
  Summary summary;    // milliseconds
};

struct Measures {
  double duration = 0;  // seconds, of what is measured
  // Requests that were meant to be sent within it, by how they ended.
  int64_t requests = 0, completed = 0, failed = 0, rejected = 0, cancelled = 0, unfinished = 0;
  int64_t unsent = 0;
  int64_t total_input_tokens = 0, total_output_tokens = 0;  // of those completed
  // A second, of what came within it from any request.
  double request_throughput = 0, input_throughput = 0, output_throughput = 0;
  double total_token_throughput = 0;
  double output_throughput_per_user = 0;  // mean of what completed requests saw
  std::optional<double> request_goodput;  // where there is an SLO
  std::optional<double> good_share;       // of those measured and not cancelled or unfinished
  double max_output_tokens_per_s = 0;     // in a whole second
  int64_t max_concurrent_requests = 0;
  std::vector<Latency> latencies;  // of completed requests
  // As the server says of completed requests.
  int64_t cached_tokens = 0, preemptions = 0;
  double mean_cache_bytes = 0, mean_plain_cache_bytes = 0;
  // From its gauges, where they were scraped.
  struct Gauges {
    double max_running = 0, max_waiting = 0, max_cache_usage = 0, preemptions = 0;
    double reached_before_preemption = 0;  // the most until then; of all the run where none was
    // What the cache holds: the mean of what ran while requests waited and 95 % of the blocks or
    // more were in use. 0 where that never was.
    double held_when_full = 0;
  };
  std::optional<Gauges> gauges;
  double busy_share = 0;  // of the client
};

Measures Measure(const RunResult& run, const Slo& slo);

// Every figure under the name it has in a report: those that `vllm bench serve` has too under its
// names. Counts as whole numbers.
std::vector<std::pair<std::string, double>> Flatten(const Measures& measures);

}  // namespace strata::load
