#pragma once

#include "absl/status/status.h"
#include "server/cli/options.h"

// The subcommands of `strata`, one file each. A returned error is printed as "strata: message" and
// ends the process with code 1; an empty message prints nothing.
namespace strata::server {

absl::Status RunServe(const ServeOptions& options);
absl::Status RunGenerate(const GenerateOptions& options);
absl::Status RunPlan(const PlanOptions& options);
absl::Status RunEval(const EvalOptions& options);
absl::Status RunHealth(const HealthOptions& options);
absl::Status RunKey(const KeyOptions& options);

}  // namespace strata::server
