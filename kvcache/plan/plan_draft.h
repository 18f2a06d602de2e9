#pragma once

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kvcache/plan/sharing_plan.h"
#include "nlohmann/json_fwd.hpp"

// Internals of plan_parser.h, for its source files only.

namespace strata::kvcache {

// A plan while presets change it. Score sources are as named, not resolved. `keys` is the plane
// that the head would read if it computed its own scores; unused while it does not.
struct PlanDraft {
  AttentionShape shape;
  std::vector<std::vector<HeadSources>> sources;            // [layer][query head]
  std::vector<std::vector<std::optional<ValueMix>>> mixes;  // [layer][kv head]
  std::vector<bool> learnable_mix;                          // [layer]

  // Every source is self. REQUIRES: CheckShape(shape) is OK.
  static PlanDraft Plain(const AttentionShape& shape);

  HeadSources& at(int32_t layer, int32_t query_head) {
    return sources[static_cast<size_t>(layer)][static_cast<size_t>(query_head)];
  }
  // The plane of the same kv head in `layer`.
  HeadRef PlaneIn(int32_t layer, int32_t query_head) const {
    return {layer, shape.KvHeadOf(query_head)};
  }
  absl::StatusOr<SharingPlan> Finish() &&;
};

// Applies one preset object: {"preset":NAME, ...}. Refusals begin with `path`.
absl::Status ApplyPreset(const nlohmann::json& object, absl::string_view path, PlanDraft& draft);

// Applies one object of explicit lists; missing entries and nulls leave the draft as it is.
absl::Status ApplyExplicit(const nlohmann::json& object, absl::string_view path, PlanDraft& draft);

}  // namespace strata::kvcache
