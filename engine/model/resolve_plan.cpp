#include "engine/model/resolve_plan.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/errors.h"
#include "engine/model/host_floats.h"
#include "engine/model/tensor_names.h"
#include "kvcache/plan/plan_parser.h"

namespace strata::engine {
namespace {

using kvcache::AttentionShape;
using kvcache::HeadSources;
using kvcache::SharingPlan;
using kvcache::ValueMix;

absl::StatusOr<SharingPlan> DetectFrom(const TensorSource& tensors, const AttentionShape& shape) {
  std::vector<kvcache::ProjectionsPresent> layers;
  for (int32_t l = 0; l < shape.num_layers; ++l) {
    layers.push_back({.query = tensors.Has(LayerTensorName(l, "self_attn.q_proj.weight")),
                      .key = tensors.Has(LayerTensorName(l, "self_attn.k_proj.weight")),
                      .value = tensors.Has(LayerTensorName(l, "self_attn.v_proj.weight"))});
  }
  return kvcache::DetectPlan(layers, shape);
}

absl::StatusOr<ValueMix> ReadValueMix(const TensorSource& tensors, int32_t layer) {
  const std::string name = LayerTensorName(layer, kValueMixName);
  absl::StatusOr<TensorView> tensor = tensors.Find(name);
  if (absl::IsNotFound(tensor.status())) {
    return InvalidArgument(name, ": missing, expected [2] (the plan's mix is learnable)");
  }
  if (!tensor.ok()) return tensor.status();
  if (tensor->shape != std::vector<int64_t>{2}) {
    return InvalidArgument(name, ": expected [2], found ", ShapeText(tensor->shape));
  }
  const std::vector<float> values = HostFloats(*tensor);
  if (!std::isfinite(values[0]) || !std::isfinite(values[1])) {
    return InvalidArgument(name, ": not finite: [", values[0], ", ", values[1], "]");
  }
  return ValueMix{.own = values[0], .first = values[1]};
}

// The same plan with the checkpoint's scalars for its learnable mixes.
absl::StatusOr<SharingPlan> WithLearnedMixes(const SharingPlan& plan, const TensorSource& tensors) {
  const AttentionShape& shape = plan.shape();
  std::vector<std::vector<HeadSources>> sources;
  std::vector<std::vector<std::optional<ValueMix>>> mixes;
  std::vector<bool> learnable;
  for (int32_t l = 0; l < shape.num_layers; ++l) {
    auto& layer_sources = sources.emplace_back();
    for (int32_t h = 0; h < shape.num_query_heads; ++h) layer_sources.push_back(plan.sources(l, h));
    auto& layer_mixes = mixes.emplace_back();
    for (int32_t g = 0; g < shape.num_kv_heads; ++g) layer_mixes.push_back(plan.mix(l, g));
    learnable.push_back(plan.learnable_mix(l));
    if (!plan.learnable_mix(l)) continue;
    ASSIGN_OR_RETURN(ValueMix learned, ReadValueMix(tensors, l));
    for (std::optional<ValueMix>& mix : layer_mixes) {
      if (mix) mix = learned;
    }
  }
  return SharingPlan::Make(shape, std::move(sources), std::move(mixes), std::move(learnable));
}

// A layer that learned a mix answers wrongly without it.
absl::Status CheckMixesAreRead(const SharingPlan& plan, const TensorSource& tensors) {
  for (int32_t l = 0; l < plan.shape().num_layers; ++l) {
    const std::string name = LayerTensorName(l, kValueMixName);
    if (plan.learnable_mix(l) || !tensors.Has(name)) continue;
    return InvalidArgument(name, ": the checkpoint has learned a mix for layer ", l,
                           ", the plan of config.json has no learnable one there");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharingPlan> ResolvePlan(const ModelConfig& config, const TensorSource& tensors,
                                        const std::optional<SharingPlan>& plan_override) {
  if (plan_override) return WithLearnedMixes(*plan_override, tensors);
  std::optional<SharingPlan> plan = config.plan;
  if (!plan) {
    ASSIGN_OR_RETURN(plan, DetectFrom(tensors, config.attention));
  }
  RETURN_IF_ERROR(CheckMixesAreRead(*plan, tensors));
  return WithLearnedMixes(*plan, tensors);
}

}  // namespace strata::engine
