#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/base/json_reader.h"
#include "kvcache/plan/sharing_plan.h"

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

// Each of these changes the draft as one object of the JSON says, or fails the reader.
void ReadPreset(JsonReader& object, PlanDraft& draft);    // {"preset": NAME, ...}
void ReadExplicit(JsonReader& object, PlanDraft& draft);  // explicit lists

// A number that a float holds.
float ReadFinite(JsonReader& owner, std::string_view field);

}  // namespace strata::kvcache
