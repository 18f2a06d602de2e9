#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/types.h"

namespace strata::engine {

inline constexpr int32_t kMaxSequences = 64;  // of a request

// Whether this model can serve the request: INVALID_ARGUMENT, one line, "field: value is not
// limit". Fields go by their names in inference.proto. Reads constants only: any thread.
absl::Status CheckRequest(const Request& request, const ModelInfo& model);

// The most max_tokens with which n sequences after such a prompt fit the model's positions and the
// whole cache, as Engine::Submit asks of a request; below 1 where none does. REQUIRES: n >= 1.
int64_t MostTokens(const ModelInfo& model, int64_t prompt_tokens, int32_t n);

}  // namespace strata::engine
