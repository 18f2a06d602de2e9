#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/load/record.h"
#include "tests/load/statistics.h"

// A run's outcome as text, JSON and CSV. Pure functions.
namespace strata::load {

// The parameters of a run, beside its figures.
struct ReportHeader {
  std::string date;  // "20260131-235959"
  std::string label;
  nlohmann::json server;   // address, model, plan
  nlohmann::json traffic;  // keys of the report itself: request_rate, burstiness ...
  int64_t num_prompts = 0;
};

// The report: figures of all repeats (with several, their means, "repeats" and "spread"), the first
// one's series, errors and warnings of all. REQUIRES: at least one.
nlohmann::ordered_json MakeReport(const ReportHeader& header, const std::vector<RunResult>& runs,
                                  const Slo& slo);
// Adds every request's times, as `vllm bench serve --save-detailed` does.
void AddDetails(const RunResult& run, nlohmann::ordered_json* report);

// Warnings about the figures, a line each: a client that is the bottleneck, a clock that was set,
// requests never sent, nothing measured.
std::vector<std::string> Warnings(const RunResult& run, const Measures& measures);
// Each error and its number of occurrences, the most frequent first.
std::vector<std::pair<std::string, int64_t>> Errors(const std::vector<RunResult>& runs);

// Text for the terminal from a report of MakeReport.
std::string ReportText(const nlohmann::ordered_json& report);

// A line a request, under a line of names.
std::string Csv(const std::vector<RunResult>& runs);

}  // namespace strata::load
