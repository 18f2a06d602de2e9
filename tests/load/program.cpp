#include "tests/load/program.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kvcache/base/errors.h"
#include "server/cli/standard_output.h"
#include "tests/load/compare.h"
#include "tests/load/grpc_transport.h"
#include "tests/load/knee.h"
#include "tests/load/page.h"
#include "tests/load/report.h"
#include "tests/load/session.h"

namespace strata::load {
namespace {

using nlohmann::ordered_json;

constexpr int kFailed = 1;
constexpr int kInterrupted = 130;

void Say(const std::string& line) { std::fprintf(stderr, "strata-loadtest: %s\n", line.c_str()); }

bool WriteFile(const std::string& path, const std::string& content) {
  if (path.empty()) return true;
  std::ofstream file(path, std::ios::binary);
  file << content;
  if (file.flush()) return true;
  Say(absl::StrCat(path, ": cannot be written"));
  return false;
}

class Program {
 public:
  Program(const Options& options, const std::atomic<bool>& interrupted)
      : options_(options), interrupted_(interrupted) {}

  absl::Status Go() {
    RETURN_IF_ERROR(Prepare());
    return options_.sweep ? Sweep() : Repeat();
  }
  // Writes the results so far and returns the exit code.
  int Write();

 private:
  struct Subject {
    Compared what;
    Target target = {};  // of a server
    std::vector<RunResult> runs = {};
  };

  absl::Status Prepare();
  absl::Status Repeat();
  absl::Status Sweep();
  bool IsSustained(const RunResult& run) const;
  ordered_json Report(const Subject& subject, std::optional<double> rate) const;

  const Options& options_;
  const std::atomic<bool>& interrupted_;
  Inputs inputs_;
  std::vector<Subject> subjects_;
  std::vector<ordered_json> reports_;  // of earlier results, and of a sweep
};

absl::Status Program::Prepare() {
  for (const std::string& text : options_.compare) {
    subjects_.push_back({.what = ParseCompared(text)});
  }
  if (subjects_.empty()) {
    subjects_.push_back(
        {.what = {
             .label = options_.label, .address = options_.server, .metrics = options_.metrics}});
  }
  ASSIGN_OR_RETURN(auto inputs, ReadInputs(options_));
  inputs_ = std::move(inputs);
  for (const std::string& line : inputs_.complaints) Say(line);
  ASSIGN_OR_RETURN(const auto access, server::Access::Open(options_.access));
  for (Subject& subject : subjects_) {
    if (!subject.what.file.empty()) continue;
    if (options_.users == 0 && options_.rate == 0 && options_.trace.empty()) {
      return absl::InvalidArgumentError("--users: give it, --rate or --trace to load a server");
    }
    ASSIGN_OR_RETURN(auto model, AskModel(subject.what.address, access));
    subject.target = {.label = subject.what.label,
                      .address = subject.what.address,
                      .metrics = subject.what.metrics,
                      .model = std::move(model),
                      .access = access};
  }
  return absl::OkStatus();
}

// Servers take turns, so that changes on the machine during the runs affect all alike.
absl::Status Program::Repeat() {
  for (int32_t repeat = 0; repeat < options_.repeats; ++repeat) {
    for (Subject& subject : subjects_) {
      if (!subject.what.file.empty() || interrupted_) continue;
      ASSIGN_OR_RETURN(auto run, LoadServer(options_, inputs_, subject.target, {}, interrupted_));
      if (!run.stopped.empty()) Say(run.stopped);
      const bool gone = !run.stopped.empty() && !run.interrupted;
      subject.runs.push_back(std::move(run));
      if (gone) return absl::UnavailableError("");  // has been reported
    }
  }
  return absl::OkStatus();
}

// With an SLO: enough requests are good. Without one: answers keep up with sending, so that at the
// end of sending no more is left than the quickest requests take.
bool Program::IsSustained(const RunResult& run) const {
  constexpr double kKeepsUp = 0.95;
  const Measures measures = Measure(run, options_.slo);
  if (measures.completed == 0) return false;
  if (measures.good_share) return *measures.good_share >= options_.sweep_good_share;
  std::vector<double> latencies;
  Time last_end{};
  for (const Record& record : run.records) {
    if (record.outcome == Outcome::kCompleted) latencies.push_back(EndMs(record) / 1e3);
    last_end = std::max(last_end, record.end);
  }
  std::sort(latencies.begin(), latencies.end());
  const double answering = Seconds(last_end) - Percentile(latencies, 10);
  return measures.failed + measures.rejected == 0 &&
         Seconds(*options_.duration) >= kKeepsUp * answering;
}

absl::Status Program::Sweep() {
  KneeSearch search({.first = options_.rate});
  Subject& subject = subjects_.front();
  ordered_json points = ordered_json::array();
  std::optional<ordered_json> best, last;
  absl::Status status;
  while (const auto rate = search.Next()) {
    ASSIGN_OR_RETURN(auto run, LoadServer(options_, inputs_, subject.target, rate, interrupted_));
    const std::string stopped = run.stopped;
    const bool sustained = stopped.empty() && IsSustained(run);
    subject.runs.push_back(std::move(run));
    ordered_json report = Report(subject, rate);
    Say(absl::StrFormat("%.3g requests/s: %s", *rate,
                        !stopped.empty() ? stopped
                        : sustained      ? "sustained"
                                         : "too much"));
    ordered_json point = {{"rate", *rate}, {"sustained", sustained}};
    for (const char* key :
         {"request_throughput", "request_goodput", "good_share", "output_throughput", "p50_ttft_ms",
          "p99_ttft_ms", "p50_tpot_ms", "p99_tpot_ms", "p50_e2el_ms", "p99_e2el_ms"}) {
      if (report.contains(key)) point[key] = report[key];
    }
    points.push_back(std::move(point));
    last = report;
    if (!stopped.empty()) {
      if (!interrupted_) status = absl::UnavailableError("");
      break;
    }
    search.Report(*rate, sustained);
    if (sustained && search.knee() == *rate) best = std::move(report);
    subject.runs.clear();  // its figures are in the report
  }
  if (!last) return absl::InvalidArgumentError("--rate: a sweep tries 0.001 to 100000");
  ordered_json& result = reports_.emplace_back(*(best ? best : last));
  result["sweep"] = std::move(points);
  result["knee"] = search.knee() ? ordered_json(*search.knee()) : ordered_json();
  subject.runs.clear();
  return status;
}

ordered_json Program::Report(const Subject& subject, std::optional<double> rate) const {
  ReportHeader header{.date = absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone()),
                      .label = subject.what.label,
                      .server = DescribeServer(subject.target),
                      .traffic = DescribeTraffic(options_, rate)};
  for (const RunResult& run : subject.runs) header.num_prompts += std::ssize(run.records);
  return MakeReport(header, subject.runs, options_.slo);
}

int Program::Write() {
  std::vector<RunResult> all;
  bool failed = false;
  for (Subject& subject : subjects_) {
    if (!subject.what.file.empty()) {
      auto report = ReadReport(subject.what.file, subject.what.label);
      if (report.ok()) {
        reports_.push_back(*std::move(report));
      } else {
        Say(std::string(report.status().message()));
        failed = true;
      }
      continue;
    }
    if (subject.runs.empty()) continue;
    ordered_json report = Report(subject, {});
    failed = failed || report["failed"].get<double>() > report["rejected"].get<double>();
    if (options_.save_detailed) AddDetails(subject.runs.front(), &report);
    reports_.push_back(std::move(report));
    std::move(subject.runs.begin(), subject.runs.end(), std::back_inserter(all));
  }
  if (reports_.empty()) return kFailed;
  const bool compares = options_.compare.size() > 1;
  std::string text;
  for (const ordered_json& report : reports_) absl::StrAppend(&text, ReportText(report), "\n");
  if (compares) text = CompareText(reports_);
  if (absl::Status status = server::WriteToStdout(text); !status.ok()) {
    Say(std::string(status.message()));
    failed = true;
  }
  const ordered_json json = compares ? CompareJson(reports_) : reports_.front();
  const auto dumped = json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
  failed = !WriteFile(options_.json, dumped + "\n") || failed;
  failed = !WriteFile(options_.csv, Csv(all)) || failed;
  failed = !WriteFile(options_.html, MakePage(reports_)) || failed;
  return failed ? kFailed : 0;
}

}  // namespace

int RunProgram(const Options& options, const std::atomic<bool>& interrupted) {
  Program program(options, interrupted);
  const absl::Status status = program.Go();
  if (!status.ok() && !status.message().empty()) Say(std::string(status.message()));
  const int code = program.Write();
  if (interrupted) return kInterrupted;
  return status.ok() ? code : kFailed;
}

}  // namespace strata::load
