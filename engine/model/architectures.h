#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "engine/base/model_source.h"
#include "engine/model/model_spec.h"

namespace strata::engine {

// Reads what a model computes from its configuration, by the row of its architecture: the names it
// answers to, the defaults of its class, its keys and how they become values, and how its tensors
// are called. eos_token_id and the defaults of sampling come from generation_config.json as well.
//
// INVALID_ARGUMENT, one line naming document, key, value and limit; UNIMPLEMENTED naming an
// architecture, a key that it does not know, or a value that is not built (CheckRuns).
absl::StatusOr<ModelSpec> ReadModelSpec(const ModelSource& source);

// The same from the text of a config.json alone.
absl::StatusOr<ModelSpec> ParseModelSpec(std::string_view config_json);

}  // namespace strata::engine
