#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "kvcache/plan/plan_draft.h"
#include "kvcache/plan/plan_json.h"
#include "kvcache/plan/plan_parser.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache {
namespace {

using nlohmann::json;

absl::Status CheckProjections(const std::vector<ProjectionsPresent>& layers,
                              const AttentionShape& shape) {
  if (layers.size() != static_cast<size_t>(shape.num_layers)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "projections of ", layers.size(), " layers, but the model has ", shape.num_layers));
  }
  for (const auto& [name, present] :
       {std::pair("q_proj", layers[0].query), std::pair("k_proj", layers[0].key),
        std::pair("v_proj", layers[0].value)}) {
    if (!present) return RefuseAt("layer 0", "no ", name, ", and no layer below to take it from");
  }
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer].key && !layers[layer].query) {
      return RefuseAt(absl::StrCat("layer ", layer), "a k_proj but no q_proj");
    }
  }
  return absl::OkStatus();
}

json LayersUpTo(int32_t num_layers, int32_t step) {
  json layers = json::array();
  for (int32_t layer = 0; layer < num_layers; layer += step) layers.push_back(layer);
  return layers;
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

absl::StatusOr<json> NamedPlan(std::string_view name, const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", LayersUpTo(shape.num_layers, 4)}};
  if (name == "plain") return json{{"preset", "plain"}};
  if (name == "svformer") return svformer;
  if (name == "resformer") return json{{"preset", "resformer"}, {"mix", "identity"}};
  if (name == "reuse") return reuse;
  if (name == "svformer-reuse") return json::array({svformer, reuse});
  if (name == "sla") {
    // Three quarters of the layers and of the heads: the best reported, 9 and 9 of 12 and 12.
    const int32_t group = shape.num_query_heads / shape.num_kv_heads;
    return json{{"preset", "sla"},
                {"skip_layers", std::max(2, shape.num_layers * 3 / 4)},
                {"skip_heads", std::max(1, shape.num_kv_heads * 3 / 4) * group}};
  }
  if (name == "cla") return json{{"preset", "cla"}, {"factor", std::min(2, shape.num_layers)}};
  if (name == "skipv1") return json{{"preset", "skipv1"}};
  if (name == "fusedkv-lite") {
    return json{{"preset", "fusedkv-lite"}, {"layer", (shape.num_layers - 1) / 2}};
  }
  return absl::InvalidArgumentError(
      absl::StrCat(Quoted(std::string(name)),
                   " is not a named plan (plain, svformer, resformer, reuse, svformer-reuse, sla, "
                   "cla, skipv1, fusedkv-lite)"));
}

}  // namespace strata::kvcache
