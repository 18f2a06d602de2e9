#pragma once

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/types.h"

namespace strata::engine {

// Whether this model can serve the request: INVALID_ARGUMENT, one line, "field: value is not
// limit". Fields go by their names in inference.proto. Reads constants only: any thread.
absl::Status CheckRequest(const Request& request, const ModelInfo& model);

}  // namespace strata::engine
