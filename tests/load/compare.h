#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace strata::load {

// A server or a result to be compared: "[LABEL=]HOST:PORT[,HTTP]" or "[LABEL=]RESULT.json".
struct Compared {
  std::string label;      // the address or the file if none is given
  std::string file = {};  // empty: a server
  std::string address = {}, metrics = {};
};
Compared ParseCompared(const std::string& text);

// Reads an earlier report, under `label`. One line if the file is no report.
absl::StatusOr<nlohmann::ordered_json> ReadReport(const std::string& path,
                                                  const std::string& label);

// Figures side by side, with their spread if there were repeats, and as ratios to the first's.
std::string CompareText(const std::vector<nlohmann::ordered_json>& reports);
// {"results": [...], "ratios": {key: [1, ...]}}; null where the first's figure is 0.
nlohmann::ordered_json CompareJson(const std::vector<nlohmann::ordered_json>& reports);

}  // namespace strata::load
