#include "kvcache/plan/plan_parser.h"

#include <utility>

#include "kvcache/base/errors.h"
#include "kvcache/plan/plan_draft.h"

namespace strata::kvcache {
namespace {

void ReadObject(JsonReader& object, PlanDraft& draft) {
  if (!object.value().is_object()) {
    object.FailExpected("", "an object with a preset or explicit lists");
  } else if (object.value().contains("preset")) {
    ReadPreset(object, draft);
  } else {
    ReadExplicit(object, draft);
  }
}

}  // namespace

SharingPlan ReadPlan(JsonReader cross_layer, const AttentionShape& shape) {
  if (cross_layer.value().is_null()) return SharingPlan::Plain(shape);
  PlanDraft draft = PlanDraft::Plain(shape);
  if (cross_layer.value().is_array()) {
    for (JsonReader& object : cross_layer.Elements("")) ReadObject(object, draft);
  } else {
    ReadObject(cross_layer, draft);
  }
  if (!cross_layer.ok()) return SharingPlan::Plain(shape);
  absl::StatusOr<SharingPlan> plan = std::move(draft).Finish();
  if (plan.ok()) return *std::move(plan);
  cross_layer.Fail("", plan.status().message());
  return SharingPlan::Plain(shape);
}

absl::StatusOr<SharingPlan> ParsePlan(const nlohmann::json& cross_layer,
                                      const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  absl::Status status;
  SharingPlan plan = ReadPlan(JsonReader::At(cross_layer, "cross_layer", &status), shape);
  RETURN_IF_ERROR(status);
  return plan;
}

}  // namespace strata::kvcache
