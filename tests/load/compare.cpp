#include "tests/load/compare.h"

#include <algorithm>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace strata::load {
namespace {

using nlohmann::ordered_json;

constexpr struct {
  const char* key;
  const char* title;
} kRows[] = {{"completed", "completed"},
             {"failed", "failed"},
             {"cancelled", "cancelled"},
             {"request_throughput", "requests/s"},
             {"request_goodput", "goodput, requests/s"},
             {"good_share", "share that is good"},
             {"output_throughput", "output tokens/s"},
             {"mean_ttft_ms", "first token, mean ms"},
             {"p50_ttft_ms", "first token, p50"},
             {"p99_ttft_ms", "first token, p99"},
             {"p50_tpot_ms", "per token, p50 ms"},
             {"p99_tpot_ms", "per token, p99"},
             {"p99_itl_ms", "inter-token, p99 ms"},
             {"p50_e2el_ms", "end to end, p50 ms"},
             {"p99_e2el_ms", "end to end, p99"},
             {"mean_cache_bytes", "cache bytes a request"},
             {"preemptions", "preemptions"},
             {"server_max_running", "running, at most"},
             {"server_reached_before_preemption", "before a preemption"},
             {"server_held_when_full", "held, on average"},
             {"server_max_waiting", "waiting, at most"}};

bool Has(const ordered_json& report, const std::string& key) {
  return report.contains(key) && report[key].is_number();
}

}  // namespace

Compared ParseCompared(const std::string& text) {
  Compared compared;
  const size_t sign = text.find('=');
  const std::string what = sign == text.npos ? text : text.substr(sign + 1);
  compared.label = sign == text.npos ? what : text.substr(0, sign);
  if (absl::EndsWith(what, ".json")) {
    compared.file = what;
    return compared;
  }
  const size_t comma = what.find(',');
  compared.address = what.substr(0, comma);
  if (comma != what.npos) compared.metrics = what.substr(comma + 1);
  return compared;
}

absl::StatusOr<ordered_json> ReadReport(const std::string& path, const std::string& label) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  ordered_json report = ordered_json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object() || !Has(report, "completed") || !report.contains("server") ||
      !report.contains("series")) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a result of strata-loadtest"));
  }
  report["label"] = label;
  return report;
}

std::string CompareText(const std::vector<ordered_json>& reports) {
  constexpr int kWidth = 26;
  std::string text = absl::StrFormat("%-24s", "");
  for (const ordered_json& report : reports) {
    absl::StrAppendFormat(&text, "%*s", kWidth, report.value("label", ""));
  }
  text += '\n';
  for (const auto& row : kRows) {
    if (std::none_of(reports.begin(), reports.end(),
                     [&row](const ordered_json& report) { return Has(report, row.key); })) {
      continue;
    }
    absl::StrAppendFormat(&text, "%-24s", row.title);
    const double first = Has(reports[0], row.key) ? reports[0][row.key].get<double>() : 0;
    for (const ordered_json& report : reports) {
      if (!Has(report, row.key)) {
        absl::StrAppendFormat(&text, "%*s", kWidth, "-");
        continue;
      }
      const double value = report[row.key].get<double>();
      std::string cell = absl::StrFormat("%.4g", value);
      if (report.contains("spread") && report["spread"].contains(row.key)) {
        absl::StrAppendFormat(&cell, " +- %.2g", report["spread"][row.key]["std"].get<double>());
      }
      if (&report != &reports[0] && first != 0) {
        absl::StrAppendFormat(&cell, " (%.2fx)", value / first);
      }
      absl::StrAppendFormat(&text, "%*s", kWidth, cell);
    }
    text += '\n';
  }
  return text;
}

ordered_json CompareJson(const std::vector<ordered_json>& reports) {
  ordered_json ratios = ordered_json::object();
  for (const auto& row : kRows) {
    const double first = Has(reports[0], row.key) ? reports[0][row.key].get<double>() : 0;
    for (const ordered_json& report : reports) {
      const bool known = first != 0 && Has(report, row.key);
      ratios[row.key].push_back(known ? ordered_json(report[row.key].get<double>() / first)
                                      : ordered_json());
    }
  }
  return {{"results", reports}, {"ratios", ratios}};
}

}  // namespace strata::load
