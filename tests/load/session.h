#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/cli/access.h"
#include "strata/v1/inference.pb.h"
#include "tests/load/clock.h"
#include "tests/load/options.h"
#include "tests/load/record.h"
#include "tests/load/traces.h"

namespace strata::load {

// A server to be loaded.
struct Target {
  std::string label;
  std::string address;
  std::string metrics;  // empty: not scraped
  v1::Model model;
  server::Access access = {};
};

// Contents of the files on the command line.
struct Inputs {
  std::optional<Trace> trace;
  std::vector<std::string> prompts;     // none of them empty
  std::vector<std::string> complaints;  // a line each
};
absl::StatusOr<Inputs> ReadInputs(const Options& options);

// Loads one server once, with `rate` in place of --rate if given: schedule, workload, streams,
// scrapes and the live view put together. One line if its gauges cannot be scraped.
absl::StatusOr<RunResult> LoadServer(const Options& options, const Inputs& inputs,
                                     const Target& target, std::optional<double> rate,
                                     const std::atomic<bool>& interrupted);

// Keys of a report that describe the load and its server.
nlohmann::json DescribeTraffic(const Options& options, std::optional<double> rate);
nlohmann::json DescribeServer(const Target& target);

}  // namespace strata::load
