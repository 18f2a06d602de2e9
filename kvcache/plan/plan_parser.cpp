#include "kvcache/plan/plan_parser.h"

#include <string>
#include <utility>

#include "kernels/status_macros.h"
#include "kvcache/plan/plan_draft.h"
#include "kvcache/plan/plan_json.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache {
namespace {

using nlohmann::json;

constexpr char kField[] = "cross_layer";

absl::Status ApplyObject(const json& object, absl::string_view path, PlanDraft& draft) {
  if (!object.is_object()) {
    return RefuseAt(path, Shown(object), " is not an object with a preset or explicit lists");
  }
  if (FindMember(object, "preset") != nullptr) return ApplyPreset(object, path, draft);
  return ApplyExplicit(object, path, draft);
}

}  // namespace

absl::StatusOr<SharingPlan> ParsePlan(const json& cross_layer, const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  if (cross_layer.is_null()) return SharingPlan::Plain(shape);

  PlanDraft draft = PlanDraft::Plain(shape);
  if (cross_layer.is_array()) {
    for (size_t i = 0; i < cross_layer.size(); ++i) {
      RETURN_IF_ERROR(ApplyObject(cross_layer[i], Element(kField, i), draft));
    }
  } else {
    RETURN_IF_ERROR(ApplyObject(cross_layer, kField, draft));
  }
  absl::StatusOr<SharingPlan> plan = std::move(draft).Finish();
  if (!plan.ok()) return RefuseAt(kField, plan.status().message());
  return plan;
}

}  // namespace strata::kvcache
