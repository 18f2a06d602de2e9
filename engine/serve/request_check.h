#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/base/types.h"
#include "engine/serve/engine.h"

namespace strata::engine {

inline constexpr int32_t kMaxSequences = 64;  // of a request

// Whether this model can serve the request: INVALID_ARGUMENT, one line, "field: value is not
// limit". Fields go by their names in inference.proto. Reads constants only: any thread.
absl::Status CheckRequest(const Request& request, const ModelInfo& model);

// Sums over requests that are submitted together: the limits of one request hold for all of them.
class RequestTotals {
 public:
  // INVALID_ARGUMENT if one more is too much. REQUIRES: CheckRequest was OK.
  absl::Status Add(const Request& request);

 private:
  int32_t requests_ = 0;
  int64_t sequences_ = 0;
  int64_t prompt_logprobs_ = 0;
};

// The highest max_tokens with which n sequences after a prompt of `prompt_tokens` fit the model's
// positions and the whole cache, as Engine::Submit requires; below 1 if none fits. REQUIRES: n >=
// 1.
int64_t MostTokens(const ModelInfo& model, int64_t prompt_tokens, int32_t n);
// The longest prompt after which n sequences of `max_tokens` tokens fit; at least 1.
int32_t MostPromptTokens(const ModelInfo& model, int32_t max_tokens, int32_t n);

// Names the prompt at fault among several: "prompt: ..." becomes "prompt[3]: ...", with the
// payloads of the status.
absl::Status NamePrompt(size_t number, const absl::Status& status);

}  // namespace strata::engine
