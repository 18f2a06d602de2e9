#include <utility>

#include "kvcache/base/errors.h"
#include "kvcache/plan/plan_draft.h"
#include "kvcache/plan/plan_parser.h"

namespace strata::kvcache {
namespace {

absl::Status CheckProjections(const std::vector<ProjectionsPresent>& layers,
                              const AttentionShape& shape) {
  if (layers.size() != static_cast<size_t>(shape.num_layers)) {
    return InvalidArgument("projections of ", layers.size(), " layers, but the model has ",
                           shape.num_layers);
  }
  for (const auto& [name, present] :
       {std::pair("q_proj", layers[0].query), std::pair("k_proj", layers[0].key),
        std::pair("v_proj", layers[0].value)}) {
    if (present) continue;
    return InvalidArgument("layer 0: no ", name, ", and no layer below to take it from");
  }
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer].key && !layers[layer].query) {
      return InvalidArgument("layer ", layer, ": a k_proj but no q_proj");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharingPlan> DetectPlan(const std::vector<ProjectionsPresent>& layers,
                                       const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  RETURN_IF_ERROR(CheckProjections(layers, shape));

  PlanDraft draft = PlanDraft::Plain(shape);
  int32_t queries = 0;  // the nearest layer at or below with queries
  int32_t keys = 0;
  int32_t values = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const ProjectionsPresent& present = layers[static_cast<size_t>(layer)];
    if (present.query) queries = layer;
    if (present.key) keys = layer;
    if (present.value) values = layer;
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      // A layer without queries has no keys: its heads take scores of the layer in `queries`.
      draft.at(layer, head) = {.scores = {queries, head},
                               .keys = draft.PlaneIn(keys, head),
                               .values = draft.PlaneIn(values, head)};
    }
  }
  return std::move(draft).Finish();
}

}  // namespace strata::kvcache
