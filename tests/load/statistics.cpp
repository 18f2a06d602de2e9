#include "tests/load/statistics.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace strata::load {
namespace {

double Ms(Time time) { return Seconds(time) * 1e3; }

// The samples of every kind of latency, in the order of reports.
struct Samples {
  std::vector<double> ttft, ttst, tpot, itl, gap, e2el, lag, queue, prefill, decode;
};

void Collect(const Record& record, Samples* samples) {
  samples->e2el.push_back(EndMs(record));
  samples->lag.push_back(Ms(record.sent - record.intended));
  if (record.server) {
    samples->queue.push_back(record.server->queue_seconds * 1e3);
    samples->prefill.push_back(record.server->prefill_seconds * 1e3);
    samples->decode.push_back(record.server->decode_seconds * 1e3);
  }
  if (record.arrivals.empty()) return;
  samples->ttft.push_back(FirstTokenMs(record));
  if (const auto second = SecondTokenMs(record)) samples->ttst.push_back(*second);
  if (const auto per_token = PerTokenMs(record)) samples->tpot.push_back(*per_token);
  for (size_t i = 1; i < record.arrivals.size(); ++i) {
    const Arrival& arrival = record.arrivals[i];
    const double gap = Ms(arrival.at() - record.arrivals[i - 1].at());
    samples->gap.push_back(gap);
    // Tokens that came together shared the wait.
    samples->itl.insert(samples->itl.end(), static_cast<size_t>(arrival.tokens()),
                        gap / arrival.tokens());
  }
}

void Count(const Record& record, Measures* measures) {
  ++measures->requests;
  switch (record.outcome) {
    case Outcome::kCompleted:
      ++measures->completed;
      measures->total_input_tokens += record.input_tokens;
      measures->total_output_tokens += record.output_tokens;
      break;
    case Outcome::kCancelled:
      ++measures->cancelled;
      break;
    case Outcome::kRejected:
      ++measures->rejected;
      break;
    case Outcome::kFailed:
      ++measures->failed;
      break;
    case Outcome::kUnfinished:
      ++measures->unfinished;
      break;
  }
}

int64_t MaxConcurrent(const std::vector<Record>& records) {
  std::vector<std::pair<Time, int>> changes;
  for (const Record& record : records) {
    if (record.outcome == Outcome::kUnfinished && record.end == Time(0)) {
      changes.emplace_back(record.sent, 1);  // in flight until the end
      continue;
    }
    changes.emplace_back(record.sent, 1);
    changes.emplace_back(record.end, -1);
  }
  std::sort(changes.begin(), changes.end());  // at one time, ends before starts
  int64_t now = 0, most = 0;
  for (const auto& [at, change] : changes) most = std::max(most, now += change);
  return most;
}

// Measures events within [begin, end], of any request.
void MeasureRates(const RunResult& run, const Slo& slo, Measures* measures) {
  const auto inside = [&run](Time at) { return at >= run.begin && at <= run.end; };
  int64_t ended = 0, good = 0, input = 0, output = 0;
  std::map<int64_t, int64_t> seconds;
  for (const Record& record : run.records) {
    if (record.outcome == Outcome::kCompleted && inside(record.end)) {
      ++ended;
      if (MeetsSlo(record, slo)) ++good;
    }
    if (!record.arrivals.empty() && inside(record.arrivals.front().at())) {
      input += record.input_tokens;
    }
    for (const Arrival& arrival : record.arrivals) {
      if (!inside(arrival.at())) continue;
      output += arrival.tokens();
      seconds[(arrival.at() - run.begin) / std::chrono::seconds(1)] += arrival.tokens();
    }
  }
  const auto rate = [measures](int64_t count) {
    return measures->duration > 0 ? static_cast<double>(count) / measures->duration : 0;
  };
  measures->request_throughput = rate(ended);
  measures->input_throughput = rate(input);
  measures->output_throughput = rate(output);
  measures->total_token_throughput = rate(input + output);
  if (slo.any()) measures->request_goodput = rate(good);
  for (const auto& [second, tokens] : seconds) {
    measures->max_output_tokens_per_s =
        std::max(measures->max_output_tokens_per_s, static_cast<double>(tokens));
  }
}

std::optional<Measures::Gauges> MeasureGauges(const std::vector<Scrape>& scrapes) {
  if (scrapes.empty()) return std::nullopt;
  Measures::Gauges gauges;
  constexpr double kFull = 0.95;
  const double before = scrapes.front().preemptions;
  double held = 0;
  int64_t full = 0;
  for (const Scrape& scrape : scrapes) {
    gauges.max_running = std::max(gauges.max_running, scrape.running);
    gauges.max_waiting = std::max(gauges.max_waiting, scrape.waiting);
    gauges.max_cache_usage = std::max(gauges.max_cache_usage, scrape.cache_usage);
    gauges.preemptions = scrape.preemptions - before;
    if (gauges.preemptions == 0) gauges.reached_before_preemption = gauges.max_running;
    if (scrape.waiting > 0 && scrape.cache_usage >= kFull) {
      held += scrape.running;
      ++full;
    }
  }
  if (full > 0) gauges.held_when_full = held / static_cast<double>(full);
  return gauges;
}

}  // namespace

double Percentile(const std::vector<double>& sorted, double percent) {
  const double place = static_cast<double>(sorted.size() - 1) * percent / 100;
  const auto below = static_cast<size_t>(place);
  const double share = place - std::floor(place);
  if (share == 0) return sorted[below];
  return sorted[below] + (sorted[below + 1] - sorted[below]) * share;
}

Summary Summarize(std::vector<double> samples) {
  Summary summary;
  summary.count = std::ssize(samples);
  if (samples.empty()) {
    for (const double percent : kPercentiles) summary.percentiles.emplace_back(percent, 0);
    return summary;
  }
  std::sort(samples.begin(), samples.end());
  const auto count = static_cast<double>(samples.size());
  summary.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / count;
  double squares = 0;
  for (const double sample : samples) {
    squares += (sample - summary.mean) * (sample - summary.mean);
  }
  summary.deviation = std::sqrt(squares / count);
  summary.max = samples.back();
  for (const double percent : kPercentiles) {
    summary.percentiles.emplace_back(percent, Percentile(samples, percent));
  }
  return summary;
}

absl::StatusOr<Slo> ParseSlo(const std::vector<std::string>& pairs) {
  Slo slo;
  for (const std::string& pair : pairs) {
    const size_t colon = pair.find(':');
    const std::string name = pair.substr(0, colon);
    std::optional<double>* value = name == "ttft"   ? &slo.ttft
                                   : name == "tpot" ? &slo.tpot
                                   : name == "e2el" ? &slo.e2el
                                                    : nullptr;
    double limit = 0;
    if (value == nullptr || colon == pair.npos ||
        !absl::SimpleAtod(pair.substr(colon + 1), &limit) || !(limit >= 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", pair, "' is not ttft, tpot or e2el and milliseconds, as in ttft:200"));
    }
    *value = limit;
  }
  return slo;
}

double FirstTokenMs(const Record& record) {
  return Ms(record.arrivals.front().at() - record.intended);
}

std::optional<double> SecondTokenMs(const Record& record) {
  if (record.arrivals.front().tokens() > 1) return FirstTokenMs(record);
  if (record.arrivals.size() < 2) return std::nullopt;
  return Ms(record.arrivals[1].at() - record.intended);
}

double EndMs(const Record& record) { return Ms(record.end - record.intended); }

std::optional<double> PerTokenMs(const Record& record) {
  if (record.output_tokens < 2) return std::nullopt;
  return Ms(record.arrivals.back().at() - record.arrivals.front().at()) /
         (record.output_tokens - 1);
}

bool MeetsSlo(const Record& record, const Slo& slo) {
  if (record.outcome != Outcome::kCompleted || record.arrivals.empty()) return false;
  return (!slo.ttft || FirstTokenMs(record) <= *slo.ttft) &&
         (!slo.tpot || PerTokenMs(record).value_or(0) <= *slo.tpot) &&
         (!slo.e2el || EndMs(record) <= *slo.e2el);
}

Measures Measure(const RunResult& run, const Slo& slo) {
  Measures measures;
  measures.duration = std::max(0.0, Seconds(run.end - run.begin));
  measures.unsent = run.unsent;
  measures.busy_share = run.busy_share;
  Samples samples;
  int64_t good = 0;
  double users_rates = 0, cache_bytes = 0, plain_bytes = 0;
  for (const Record& record : run.records) {
    if (record.intended < run.begin || record.intended > run.end) continue;
    Count(record, &measures);
    if (record.outcome != Outcome::kCompleted) continue;
    Collect(record, &samples);
    if (MeetsSlo(record, slo)) ++good;
    if (const auto ms = PerTokenMs(record); ms && *ms > 0) users_rates += 1e3 / *ms;
    if (!record.server) continue;
    measures.cached_tokens += record.server->cached_tokens;
    measures.preemptions += record.server->preemptions;
    cache_bytes += static_cast<double>(record.server->cache_bytes);
    plain_bytes += static_cast<double>(record.server->plain_cache_bytes);
  }
  const auto mean = [](double sum, size_t count) {
    return count == 0 ? 0 : sum / static_cast<double>(count);
  };
  measures.output_throughput_per_user = mean(users_rates, samples.tpot.size());
  measures.mean_cache_bytes = mean(cache_bytes, samples.queue.size());
  measures.mean_plain_cache_bytes = mean(plain_bytes, samples.queue.size());
  const int64_t judged = measures.requests - measures.cancelled - measures.unfinished;
  if (slo.any() && judged > 0) {
    measures.good_share = static_cast<double>(good) / static_cast<double>(judged);
  }
  measures.max_concurrent_requests = MaxConcurrent(run.records);
  measures.gauges = MeasureGauges(run.scrapes);
  MeasureRates(run, slo, &measures);
  const auto add = [&measures](const char* key, const char* title, std::vector<double>* values) {
    measures.latencies.push_back({key, title, Summarize(std::move(*values))});
  };
  add("ttft", "Time to first token", &samples.ttft);
  add("ttst", "Time to second token", &samples.ttst);
  add("tpot", "Time per output token", &samples.tpot);
  add("itl", "Inter-token latency, per token", &samples.itl);
  add("message_gap", "The same, per message", &samples.gap);
  add("e2el", "End to end", &samples.e2el);
  add("client_queue_time", "Schedule lag of the client", &samples.lag);
  add("server_queue", "Server: queue", &samples.queue);
  add("server_prefill", "Server: prefill", &samples.prefill);
  add("server_decode", "Server: decode", &samples.decode);
  return measures;
}

std::vector<std::pair<std::string, double>> Flatten(const Measures& measures) {
  std::vector<std::pair<std::string, double>> figures;
  const auto add = [&figures](const std::string& key, auto value) {
    figures.emplace_back(key, static_cast<double>(value));
  };
  add("duration", measures.duration);
  add("requests", measures.requests);
  add("completed", measures.completed);
  add("failed",
      measures.failed + measures.rejected);  // as in vllm; next the part by the queue
  add("rejected", measures.rejected);
  add("cancelled", measures.cancelled);
  add("unfinished", measures.unfinished);
  add("unsent", measures.unsent);
  add("total_input_tokens", measures.total_input_tokens);
  add("total_output_tokens", measures.total_output_tokens);
  add("request_throughput", measures.request_throughput);
  if (measures.request_goodput) add("request_goodput", *measures.request_goodput);
  if (measures.good_share) add("good_share", *measures.good_share);
  add("input_throughput", measures.input_throughput);
  add("output_throughput", measures.output_throughput);
  add("total_token_throughput", measures.total_token_throughput);
  add("output_throughput_per_user", measures.output_throughput_per_user);
  add("max_output_tokens_per_s", measures.max_output_tokens_per_s);
  add("max_concurrent_requests", measures.max_concurrent_requests);
  add("cached_tokens", measures.cached_tokens);
  add("preemptions", measures.preemptions);
  add("mean_cache_bytes", measures.mean_cache_bytes);
  add("mean_plain_cache_bytes", measures.mean_plain_cache_bytes);
  if (measures.gauges) {
    add("server_max_running", measures.gauges->max_running);
    add("server_reached_before_preemption", measures.gauges->reached_before_preemption);
    add("server_held_when_full", measures.gauges->held_when_full);
    add("server_max_waiting", measures.gauges->max_waiting);
    add("server_max_cache_usage", measures.gauges->max_cache_usage);
    add("server_preemptions", measures.gauges->preemptions);
  }
  add("client_busy_share", measures.busy_share);
  for (const Latency& latency : measures.latencies) {
    const Summary& summary = latency.summary;
    add(absl::StrCat("mean_", latency.key, "_ms"), summary.mean);
    add(absl::StrCat("median_", latency.key, "_ms"), summary.percentiles.front().second);
    add(absl::StrCat("std_", latency.key, "_ms"), summary.deviation);
    for (const auto& [percent, value] : summary.percentiles) {
      add(absl::StrCat("p", percent, "_", latency.key, "_ms"), value);
    }
    add(absl::StrCat("max_", latency.key, "_ms"), summary.max);
  }
  return figures;
}

}  // namespace strata::load
