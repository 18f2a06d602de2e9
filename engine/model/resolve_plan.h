#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensor_source.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// Returns the plan of a model: the override if there is one, else spec.plan, else the plan
// detected from the checkpoint's projections. A plan with learnable mixes holds the
// checkpoint's value_mix scalars. Without an override, scalars that the plan does not use are
// INVALID_ARGUMENT.
absl::StatusOr<kvcache::SharingPlan> ResolvePlan(
    const ModelSpec& spec, const TensorSource& tensors,
    const std::optional<kvcache::SharingPlan>& plan_override);

}  // namespace strata::engine
