#pragma once

#include "nlohmann/json.hpp"
#include "tests/load/record.h"
#include "tests/load/statistics.h"

namespace strata::load {

// What a run's page draws, small whatever the run's length:
//   curves    {"ttft": [[percent, ms], ...], "tpot", "itl", "e2el"}
//   timeline  {"seconds": [...], "in_flight", "tokens_per_s", "running", "waiting", "cache_usage"};
//             null where the server was not scraped
//   context   [[tokens before it, median ms, p95 ms], ...] of inter-token latencies
//   goodput   {"slo": {"ttft": ms, "tpot": ms}, "given": bool, "share": [[factor, share], ...]}:
//   the
//             share of requests that keep the SLO times a factor; without one, twice the medians
nlohmann::json MakeSeries(const RunResult& run, const Slo& slo);

}  // namespace strata::load
