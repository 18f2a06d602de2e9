#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/base/json_reader.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// Presets by name for benchmarks and tests: "plain", "svformer", "resformer", "reuse" (layers with
// l mod 4 = 0 compute), "svformer-reuse", "sla", "cla", "skipv1", "fusedkv-lite".
// INVALID_ARGUMENT for any other name, and for skipv1 with an odd number of kv heads.
absl::StatusOr<SharingPlan> NamedPlan(std::string_view name, const AttentionShape& shape);

// Cross-Layer Attention (arXiv 2405.12981): `factor` layers each read the keys and values of the
// first of them. REQUIRES: factor >= 1.
SharingPlan ClaPlan(const AttentionShape& shape, int32_t factor);

// Layers, ascending, that read keys and values of the first of them.
using LayerGroup = std::vector<int32_t>;
// REQUIRES: no layer is in two groups.
SharingPlan KvGroupsPlan(const AttentionShape& shape, const std::vector<LayerGroup>& groups);
// Such groups from a field, [[0,1],[2,3,4]]. The reader fails for anything else.
std::vector<LayerGroup> ReadKvGroups(JsonReader& owner, std::string_view field, int32_t num_layers);

}  // namespace strata::kvcache
