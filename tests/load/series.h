#pragma once

#include "nlohmann/json.hpp"
#include "tests/load/record.h"
#include "tests/load/statistics.h"

namespace strata::load {

// Data of a run's page, small for a run of any length:
//   curves    {"ttft": [[percent, ms], ...], "tpot", "itl", "e2el"}
//   timeline  {"seconds": [...], "in_flight", "tokens_per_s", "running", "waiting", "cache_usage"};
//             null if the server was not scraped
//   context   [[tokens before it, median ms, p95 ms], ...] of inter-token latencies
//   goodput   {"slo": {"ttft": ms, "tpot": ms}, "given": bool, "share": [[factor, share], ...]}:
//             share of requests that keep the SLO times a factor; without an SLO, twice the medians
nlohmann::json MakeSeries(const RunResult& run, const Slo& slo);

}  // namespace strata::load
