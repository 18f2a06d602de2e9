#pragma once

#include <string>
#include <vector>

#include "kvcache/plan/sharing_plan.h"
#include "nlohmann/json.hpp"
#include "tests/support/naive_architectures.h"
#include "tests/support/tiny_model.h"

namespace strata::testing {

// One plan in the product's words and in the oracle's.
struct PlanCase {
  std::string name;
  nlohmann::json cross_layer;
  NaiveArchitecture naive;
};

// Every preset and the lists that make sense, for a model of this shape (at least 6 layers).
std::vector<PlanCase> PresetCases(const kvcache::AttentionShape& shape);

// The model's tensors in full, whatever is trimmed from the checkpoint, for the oracle.
NaiveTensors FullTensors(const TinyModelOptions& options);

// The largest |engine - oracle| of a row over the largest |oracle|.
double RelativeDeviation(const std::vector<float>& engine, const double* oracle);

}  // namespace strata::testing
