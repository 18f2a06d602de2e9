#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/check.h"
#include "kvcache/plan/plan_parser.h"
#include "nlohmann/json.hpp"
#include "tests/kvcache/plan_invariants.h"

// Four bytes choose a small shape, the rest is the JSON text of "cross_layer".
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using strata::kvcache::AttentionShape;
  using strata::kvcache::SharingPlan;
  if (size < 4) return 0;
  const int32_t num_kv_heads = 1 + data[1] % 4;
  const AttentionShape shape = {.num_layers = 1 + data[0] % 8,
                                .num_query_heads = num_kv_heads * (1 + data[2] % 3),
                                .num_kv_heads = num_kv_heads,
                                .head_dim = 1 + data[3] % 16};
  const auto json = nlohmann::json::parse(data + 4, data + size, nullptr, false);
  const absl::StatusOr<SharingPlan> plan = strata::kvcache::ParsePlan(json, shape);
  if (!plan.ok()) {
    STRATA_CHECK(plan.status().code() == absl::StatusCode::kInvalidArgument, "a user's mistake");
    const std::string message(plan.status().message());
    STRATA_CHECK(!message.empty() && message.find('\n') == std::string::npos, "one line");
    return 0;
  }
  const std::string wrong = strata::kvcache::PlanInvariants(*plan).Check();
  STRATA_CHECK(wrong.empty(), wrong.c_str());
  const auto lines = plan->DescribeLayers();
  STRATA_CHECK(lines.size() == static_cast<size_t>(shape.num_layers), "a line a layer");
  return 0;
}
