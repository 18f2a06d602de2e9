#pragma once

#include <string>
#include <vector>

#include "kvcache/plan/sharing_plan.h"
#include "nlohmann/json.hpp"
#include "tests/support/naive_architectures.h"
#include "tests/support/tiny_model.h"

namespace strata::testing {

// One plan as config.json's "cross_layer" and as the oracle's architecture.
struct PlanCase {
  std::string name;
  nlohmann::json cross_layer;
  NaiveArchitecture naive;
};

// Every preset and sensible lists of presets, for a model of this shape (at least 6 layers).
std::vector<PlanCase> PresetCases(const kvcache::AttentionShape& shape);

// The model's full tensors for the oracle, even if the checkpoint is trimmed.
NaiveTensors FullTensors(const TinyModelOptions& options);

// The largest |engine - oracle| of a row over the largest |oracle|.
double RelativeDeviation(const std::vector<float>& engine, const double* oracle);

}  // namespace strata::testing
