#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/load/report.h"

namespace strata::load {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMaxErrors = 5;

double Figure(const ordered_json& report, const std::string& key) {
  const auto found = report.find(key);
  return found != report.end() && found->is_number() ? found->get<double>() : 0;
}

// "12.3 +- 0.4" if there were repeats.
std::string WithSpread(const ordered_json& report, const std::string& key, const char* unit) {
  std::string text = absl::StrFormat("%.2f", Figure(report, key));
  if (const auto spread = report.find("spread"); spread != report.end() && spread->contains(key)) {
    absl::StrAppendFormat(&text, " +- %.2f", (*spread)[key]["std"].get<double>());
  }
  return absl::StrCat(text, unit);
}

void AppendLatencies(const ordered_json& report, std::string* text) {
  static const struct {
    const char* key;
    const char* title;
  } kRows[] = {{"ttft", "time to first token"},
               {"ttst", "to second token"},
               {"tpot", "per output token"},
               {"itl", "inter-token, per token"},
               {"message_gap", "the same, per message"},
               {"e2el", "end to end"},
               {"client_queue_time", "schedule lag"},
               {"server_queue", "server: queue"},
               {"server_prefill", "server: prefill"},
               {"server_decode", "server: decode"}};
  absl::StrAppendFormat(text, "%-24s%10s%10s%10s%10s%10s%10s%10s\n", "milliseconds", "mean", "p50",
                        "p90", "p95", "p99", "p99.9", "max");
  for (const auto& row : kRows) {
    absl::StrAppendFormat(text, "%-24s", row.title);
    for (const char* column : {"mean", "p50", "p90", "p95", "p99", "p99.9", "max"}) {
      absl::StrAppendFormat(text, "%10.2f",
                            Figure(report, absl::StrCat(column, "_", row.key, "_ms")));
    }
    absl::StrAppend(text, "\n");
  }
}

}  // namespace

std::string ReportText(const ordered_json& report) {
  const auto count = [&report](const char* key) {
    return absl::StrFormat("%.0f", Figure(report, key));
  };
  std::string text = absl::StrFormat(
      "%s%s, %.1f s measured%s\n",
      report.value("label", "").empty() ? "" : absl::StrCat(report.value("label", ""), ": "),
      report["server"].value("address", "?"), Figure(report, "duration"),
      report.contains("repeats") ? absl::StrCat(", mean of ", report["repeats"].size(), " runs")
                                 : "");
  absl::StrAppend(&text, "requests: ", count("completed"), " completed, ", count("failed"),
                  " failed (", count("rejected"), " of them rejected), ", count("cancelled"),
                  " cancelled, ", count("unfinished"), " unfinished, ", count("unsent"),
                  " never sent\n");
  absl::StrAppend(&text, "rates: ", WithSpread(report, "request_throughput", " requests/s, "),
                  WithSpread(report, "input_throughput", " input and "),
                  WithSpread(report, "output_throughput", " output tokens/s, "),
                  WithSpread(report, "output_throughput_per_user", " tokens/s a user\n"));
  if (report["request_goodput"].is_number()) {
    absl::StrAppend(&text, "goodput: ", WithSpread(report, "request_goodput", " requests/s, "),
                    absl::StrFormat("%.1f %% of requests\n", 100 * Figure(report, "good_share")));
  }
  AppendLatencies(report, &text);
  absl::StrAppend(&text, "cache: ", count("cached_tokens"), " prompt tokens found, ",
                  count("preemptions"), " preemptions, ", count("mean_cache_bytes"),
                  " bytes a request (plain: ", count("mean_plain_cache_bytes"), ")\n");
  if (report.contains("server_max_running")) {
    absl::StrAppend(&text, "server: at most ", count("server_max_running"), " running (",
                    count("server_reached_before_preemption"), " before the first preemption, ",
                    absl::StrFormat("%.1f", Figure(report, "server_held_when_full")),
                    " on average while the cache was full) and ", count("server_max_waiting"),
                    " waiting, cache at most ",
                    absl::StrFormat("%.0f", 100 * Figure(report, "server_max_cache_usage")),
                    " % full, ", count("server_preemptions"), " preemptions\n");
  }
  absl::StrAppendFormat(&text, "client: busy for %.0f %% of the time\n",
                        100 * Figure(report, "client_busy_share"));
  if (report.contains("knee")) {
    absl::StrAppend(&text, "knee: ",
                    report["knee"].is_null() ? std::string("no rate that was tried was sustained")
                                             : absl::StrFormat("%.3g requests/s are sustained",
                                                               report["knee"].get<double>()),
                    "\n");
  }
  const ordered_json& errors = report["errors_by_message"];
  for (size_t i = 0; i < std::min(errors.size(), kMaxErrors); ++i) {
    absl::StrAppend(&text, "error, ", errors[i]["count"].get<int64_t>(),
                    " times: ", errors[i]["message"].get<std::string>(), "\n");
  }
  for (const ordered_json& warning : report["warnings"]) {
    absl::StrAppend(&text, "warning: ", warning.get<std::string>(), "\n");
  }
  return text;
}

}  // namespace strata::load
