#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_format.h"
#include "tests/load/report.h"
#include "tests/load/series.h"

namespace strata::load {
namespace {

using nlohmann::ordered_json;

// Counts are whole numbers in JSON too.
ordered_json Number(double value) {
  const bool whole = value == std::floor(value) && std::abs(value) < 1e15;
  return whole ? ordered_json(static_cast<int64_t>(value)) : ordered_json(value);
}

ordered_json Object(const std::vector<std::pair<std::string, double>>& figures) {
  ordered_json object = ordered_json::object();
  for (const auto& [key, value] : figures) object[key] = Number(value);
  return object;
}

// Means into `report`, the rest under "spread".
void AddRepeats(const std::vector<ordered_json>& repeats, ordered_json* report) {
  ordered_json spread = ordered_json::object();
  for (const auto& [key, first] : repeats.front().items()) {
    std::vector<double> values;
    for (const ordered_json& repeat : repeats) {
      if (repeat.contains(key)) values.push_back(repeat[key].get<double>());
    }
    const Summary summary = Summarize(values);
    (*report)[key] = Number(summary.mean);
    spread[key] = {{"min", *std::min_element(values.begin(), values.end())},
                   {"max", summary.max},
                   {"std", summary.deviation}};
  }
  (*report)["repeats"] = repeats;
  (*report)["spread"] = spread;
}

}  // namespace

std::vector<std::string> Warnings(const RunResult& run, const Measures& measures) {
  constexpr double kBusy = 0.85;
  constexpr double kLateMs = 10;
  std::vector<std::string> warnings;
  if (run.busy_share > kBusy) {
    warnings.push_back(
        absl::StrFormat("the client is the bottleneck: its thread was busy for %.0f %% "
                        "of the time, so latencies are its own too",
                        100 * run.busy_share));
  }
  for (const Latency& latency : measures.latencies) {
    if (latency.key != "client_queue_time") continue;
    const double p99 = latency.summary.percentiles[3].second;
    if (p99 > kLateMs) {
      warnings.push_back(absl::StrFormat(
          "requests were sent up to %.0f ms late (p99 %.0f ms); latencies count that",
          latency.summary.max, p99));
    }
  }
  if (std::abs(Seconds(run.wall_step)) > 0.05) {
    warnings.push_back(
        absl::StrFormat("the machine's clock was set by %.3f s meanwhile; times are of "
                        "another that is never set",
                        Seconds(run.wall_step)));
  }
  if (run.backward_steps > 0) {
    warnings.push_back(absl::StrFormat("the clock went back %d times; it was taken to stand still",
                                       run.backward_steps));
  }
  if (run.unsent > 0) {
    warnings.push_back(absl::StrFormat("%d requests were due and never sent", run.unsent));
  }
  if (run.cut > 0) {
    warnings.push_back(absl::StrFormat("%d requests were made shorter to fit the server", run.cut));
  }
  if (run.scrapes_failed > 0) {
    warnings.push_back(absl::StrFormat("%d scrapes of the server failed", run.scrapes_failed));
  }
  if (measures.completed == 0) {
    warnings.push_back("nothing that was measured completed: there are no latencies");
  }
  return warnings;
}

std::vector<std::pair<std::string, int64_t>> Errors(const std::vector<RunResult>& runs) {
  std::map<std::string, int64_t> counts;
  for (const RunResult& run : runs) {
    for (const Record& record : run.records) {
      if (!record.error.empty()) ++counts[record.error];
    }
  }
  std::vector<std::pair<std::string, int64_t>> errors(counts.begin(), counts.end());
  std::stable_sort(errors.begin(), errors.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return errors;
}

ordered_json MakeReport(const ReportHeader& header, const std::vector<RunResult>& runs,
                        const Slo& slo) {
  ordered_json report = {{"date", header.date},
                         {"endpoint_type", "strata-grpc"},
                         {"backend", "strata-grpc"},
                         {"label", header.label},
                         {"model_id", header.server.value("model", "")},
                         {"tokenizer_id", nullptr},
                         {"num_prompts", header.num_prompts}};
  report.update(header.traffic);
  std::vector<ordered_json> repeats;
  ordered_json warnings = ordered_json::array();
  std::string stopped;
  for (const RunResult& run : runs) {
    const Measures measures = Measure(run, slo);
    repeats.push_back(Object(Flatten(measures)));
    for (const std::string& warning : Warnings(run, measures)) warnings.push_back(warning);
    if (!run.stopped.empty()) stopped = run.stopped;
  }
  if (repeats.size() == 1) {
    report.update(repeats.front());
  } else {
    AddRepeats(repeats, &report);
  }
  if (!slo.any()) report["request_goodput"] = nullptr;
  report["rtfx"] = 0;  // for speech; vllm writes it for text too
  report["server"] = header.server;
  if (!stopped.empty()) report["stopped"] = stopped;
  report["warnings"] = warnings;
  report["errors_by_message"] = ordered_json::array();
  for (const auto& [message, count] : Errors(runs)) {
    report["errors_by_message"].push_back({{"message", message}, {"count", count}});
  }
  report["series"] = MakeSeries(runs.front(), slo);
  return report;
}

void AddDetails(const RunResult& run, ordered_json* report) {
  for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times",
                          "queue_times", "generated_texts", "errors"}) {
    (*report)[key] = ordered_json::array();
  }
  const auto add = [report](const char* key, auto value) { (*report)[key].push_back(value); };
  for (const Record& record : run.records) {
    const bool completed = record.outcome == Outcome::kCompleted;
    add("input_lens", record.input_tokens);
    add("output_lens", completed ? record.output_tokens : 0);
    add("ttfts", record.arrivals.empty() ? 0 : FirstTokenMs(record) / 1e3);
    std::vector<double> gaps;
    for (size_t i = 1; i < record.arrivals.size(); ++i) {
      gaps.push_back(Seconds(record.arrivals[i].at() - record.arrivals[i - 1].at()));
    }
    add("itls", gaps);
    add("latencies", completed ? EndMs(record) / 1e3 : 0);
    add("start_times", Seconds(record.sent));
    add("queue_times", Seconds(record.sent - record.intended));
    add("generated_texts", record.text);
    add("errors", record.error);
  }
}

}  // namespace strata::load
