#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/load/record.h"

// Figures of a run. Pure functions of its records; every figure is exact, from all samples.
namespace strata::load {

// Summary of samples in one unit. Percentiles are interpolated between neighbouring samples, as in
// numpy.
struct Summary {
  int64_t count = 0;
  double mean = 0;
  double deviation = 0;  // of the samples, not an estimate for a population
  double max = 0;
  std::vector<std::pair<double, double>> percentiles = {};  // of kPercentiles
};
inline constexpr double kPercentiles[] = {50, 90, 95, 99, 99.9};

Summary Summarize(std::vector<double> samples);
// REQUIRES: sorted, not empty; `percent` in [0, 100].
double Percentile(const std::vector<double>& sorted, double percent);

// Limits in milliseconds within which a request counts as good.
struct Slo {
  std::optional<double> ttft = {}, tpot = {}, e2el = {};
  bool any() const { return ttft || tpot || e2el; }
};
// "ttft:200", "tpot:50", "e2el:3000". INVALID_ARGUMENT naming the text.
absl::StatusOr<Slo> ParseSlo(const std::vector<std::string>& pairs);

// Times of a record with arrivals, in milliseconds from its intended time.
double FirstTokenMs(const Record& record);
std::optional<double> SecondTokenMs(const Record& record);
double EndMs(const Record& record);
// Mean time between its tokens; nullopt for a single token.
std::optional<double> PerTokenMs(const Record& record);
bool MeetsSlo(const Record& record, const Slo& slo);

// One kind of latency.
struct Latency {
  std::string key;    // "ttft"
  std::string title;  // "Time to first token"
  Summary summary;    // milliseconds
};

struct Measures {
  double duration = 0;  // seconds, of the measured part
  // Requests intended within the measured part, by outcome.
  int64_t requests = 0, completed = 0, failed = 0, rejected = 0, cancelled = 0, unfinished = 0;
  int64_t unsent = 0;
  int64_t total_input_tokens = 0, total_output_tokens = 0;  // of completed requests
  // Rates per second, of events of any request within the measured part.
  double request_throughput = 0, input_throughput = 0, output_throughput = 0;
  double total_token_throughput = 0;
  double output_throughput_per_user = 0;  // mean over completed requests
  std::optional<double> request_goodput;  // if there is an SLO
  std::optional<double> good_share;       // of measured requests, less cancelled and unfinished
  double max_output_tokens_per_s = 0;     // in a whole second
  int64_t max_concurrent_requests = 0;
  std::vector<Latency> latencies;  // of completed requests
  // The server's figures of completed requests.
  int64_t cached_tokens = 0, preemptions = 0;
  double mean_cache_bytes = 0, mean_plain_cache_bytes = 0;
  // From the server's gauges, if they were scraped.
  struct Gauges {
    double max_running = 0, max_waiting = 0, max_cache_usage = 0, preemptions = 0;
    double reached_before_preemption = 0;  // most running by then; of all the run without one
    // Sequences that the cache holds: the mean of running ones while requests waited and 95 % of
    // the blocks or more were in use. 0 if this never happened.
    double held_when_full = 0;
  };
  std::optional<Gauges> gauges;
  double busy_share = 0;  // of the client
};

Measures Measure(const RunResult& run, const Slo& slo);

// Every figure under its name in a report; figures that `vllm bench serve` has too have its names.
// Counts are whole numbers.
std::vector<std::pair<std::string, double>> Flatten(const Measures& measures);

}  // namespace strata::load
