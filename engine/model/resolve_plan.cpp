#include "engine/model/resolve_plan.h"

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/host_floats.h"
#include "engine/model/tensors_of.h"
#include "kvcache/base/errors.h"
#include "kvcache/plan/plan_parser.h"

namespace strata::engine {
namespace {

using kvcache::AttentionShape;
using kvcache::HeadSources;
using kvcache::SharingPlan;
using kvcache::ValueMix;

absl::StatusOr<SharingPlan> DetectFrom(const TensorSource& tensors, const TensorList& list,
                                       const AttentionShape& shape) {
  std::vector<kvcache::ProjectionsPresent> layers;
  for (int32_t l = 0; l < shape.num_layers; ++l) {
    const auto has = [&](TensorRole role) { return tensors.Has(list.at(role, l).name); };
    layers.push_back({.query = has(TensorRole::kQuery),
                      .key = has(TensorRole::kKey),
                      .value = has(TensorRole::kValue)});
  }
  return kvcache::DetectPlan(layers, shape);
}

absl::StatusOr<ValueMix> ReadValueMix(const TensorSource& tensors, const std::string& name) {
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
absl::StatusOr<SharingPlan> WithLearnedMixes(const SharingPlan& plan, const TensorSource& tensors,
                                             const TensorList& list) {
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
    ASSIGN_OR_RETURN(ValueMix learned,
                     ReadValueMix(tensors, list.at(TensorRole::kValueMix, l).name));
    for (std::optional<ValueMix>& mix : layer_mixes) {
      if (mix) mix = learned;
    }
  }
  return SharingPlan::Make(shape, std::move(sources), std::move(mixes), std::move(learnable));
}

// A layer that learned a mix answers wrongly without it.
absl::Status CheckMixesAreRead(const SharingPlan& plan, const TensorSource& tensors,
                               const TensorList& list) {
  for (int32_t l = 0; l < plan.shape().num_layers; ++l) {
    const std::string& name = list.at(TensorRole::kValueMix, l).name;
    if (plan.learnable_mix(l) || !tensors.Has(name)) continue;
    return InvalidArgument(name, ": the checkpoint has learned a mix for layer ", l,
                           ", the plan of config.json has no learnable one there");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SharingPlan> ResolvePlan(const ModelSpec& spec, const TensorSource& tensors,
                                        const std::optional<SharingPlan>& plan_override) {
  const TensorList list = TensorsOf(spec, SharingPlan::Plain(spec.shape()));  // for their names
  if (plan_override) return WithLearnedMixes(*plan_override, tensors, list);
  std::optional<SharingPlan> plan = spec.plan;
  if (!plan) {
    ASSIGN_OR_RETURN(plan, DetectFrom(tensors, list, spec.shape()));
  }
  RETURN_IF_ERROR(CheckMixesAreRead(*plan, tensors, list));
  return WithLearnedMixes(*plan, tensors, list);
}

}  // namespace strata::engine
