#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "server/generation/generation.h"

namespace strata::server {

// The body of a POST to /v1/completions. The engine checks ranges. A field that Strata does not
// have is refused by name (openai_fields.h).
struct CompletionRequest {
  GenerationRequest generation;  // of each prompt, without the prompt itself
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;  // at least one
  std::string model;                                                     // empty: not given
  std::string request_id;                                                // vLLM's; empty: not given
  bool echo = false;                       // the prompt's text before the output's
  bool stream = false;                     // server-sent events
  bool include_usage = false;              // stream_options.include_usage
  bool continuous_usage = false;           // stream_options.continuous_usage_stats: with each chunk
  bool return_token_ids = false;           // vLLM's: the ids of prompt and output
  bool tokens_as_ids = false;              // vLLM's return_tokens_as_token_ids
  std::optional<int32_t> prompt_logprobs;  // vLLM's; `generation` also has the count for echo
};

// Parameters that the body omits have the model's `defaults`; without those max_tokens is OpenAI's
// 16. INVALID_ARGUMENT, "field: value and the expected one".
absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body,
                                                  const engine::SamplingDefaults& defaults = {});

}  // namespace strata::server
