#include "kvcache/plan/plan_draft.h"

#include <limits>
#include <utility>

namespace strata::kvcache {

PlanDraft PlanDraft::Plain(const AttentionShape& shape) {
  const SharingPlan plan = SharingPlan::Plain(shape);
  const auto num_layers = static_cast<size_t>(shape.num_layers);
  PlanDraft draft;
  draft.shape = shape;
  draft.sources.resize(num_layers);
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      draft.sources[static_cast<size_t>(layer)].push_back(plan.sources(layer, head));
    }
  }
  draft.mixes.assign(num_layers,
                     std::vector<std::optional<ValueMix>>(static_cast<size_t>(shape.num_kv_heads)));
  draft.learnable_mix.assign(num_layers, false);
  return draft;
}

absl::StatusOr<SharingPlan> PlanDraft::Finish() && {
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      HeadSources& from = at(layer, head);
      if (from.scores != HeadRef{layer, head}) from.keys = PlaneIn(layer, head);
    }
  }
  return SharingPlan::Make(shape, std::move(sources), std::move(mixes), std::move(learnable_mix));
}

float ReadFinite(JsonReader& owner, std::string_view field) {
  constexpr float kMax = std::numeric_limits<float>::max();
  return owner.Float(field, -kMax, kMax);
}

}  // namespace strata::kvcache
