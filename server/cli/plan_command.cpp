#include "engine/serve/engine.h"
#include "engine/serve/plan_report.h"
#include "kvcache/base/errors.h"
#include "server/cli/commands.h"
#include "server/cli/model_dir.h"
#include "server/cli/standard_output.h"

namespace strata::server {

absl::Status RunPlan(const PlanOptions& options) {
  ASSIGN_OR_RETURN(const auto model_dir, FindModelDir(options.model_dir));
  ASSIGN_OR_RETURN(const auto report,
                   engine::ExplainPlan(model_dir, options.cross_layer, options.cache_dtype,
                                       options.score_reuse));
  if (options.json) return WriteToStdout(engine::PlanReportJson(report) + "\n");
  return WriteToStdout(engine::PlanReportText(report, options.cache_bytes, options.block_tokens));
}

}  // namespace strata::server
