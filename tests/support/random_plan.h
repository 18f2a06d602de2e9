#pragma once

#include <cstdint>

#include "nlohmann/json.hpp"
#include "tests/support/naive_architectures.h"

namespace strata::testing {

// A sharing plan drawn per head, in the words of config.json's "cross_layer" and as the oracle's
// table. Scores may come from a head that itself reuses (a chain), from the same layer, from any
// head; keys and values from any kv head at or below the layer; some kv heads have a mix.
struct RandomPlan {
  nlohmann::json cross_layer;
  NaiveTable table;
};
RandomPlan MakeRandomPlan(uint64_t seed, int num_layers, int num_query_heads, int num_kv_heads);

}  // namespace strata::testing
