#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/generation.h"

namespace strata::server {

// The body of a POST to /v1/completions. Ranges are the
// engine's to check; what Strata cannot do (suffix, best_of) is refused by name, and keys that it
// does not know are ignored, as OpenAI-style servers do.
struct CompletionRequest {
  GenerationRequest generation;
  std::string model;           // empty: not given
  bool echo = false;           // the prompt's text before the output's
  bool stream = false;         // server-sent events
  bool include_usage = false;  // stream_options.include_usage
};

// INVALID_ARGUMENT, "field: value and what is expected".
absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body);

}  // namespace strata::server
