#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"
#include "server/http/http_message.h"
#include "server/openai/openai_logprobs.h"
#include "server/text/tokenizer.h"

// Answers of /v1/completions, and errors of every path, as JSON. Pure functions.
namespace strata::server {

struct CompletionHead {
  std::string id;
  int64_t created = 0;  // seconds since 1970
  std::string model;
};

// vLLM's prompt_logprobs: for each token of the prompt the token itself and the likeliest; the
// first token has none.
struct PromptToken {
  int32_t id = 0;
  float logprob = 0;
  int32_t rank = 0;
  std::string text;
};
using CompletionPromptLogprobs = std::vector<std::vector<PromptToken>>;

struct CompletionChoice {
  int32_t index = 0;
  std::string text;
  std::optional<CompletionLogprobs> logprobs;
  std::optional<engine::FinishReason> finish_reason;  // null while it goes on
  // vLLM's stop_reason: the request's stop id or stop string that ended the choice.
  std::optional<int32_t> stop_token;
  std::string stop_string;
  // vLLM's fields, each left out unless asked for.
  std::optional<std::vector<int32_t>> token_ids;            // including ids that end the output
  std::optional<std::vector<int32_t>> prompt_token_ids;     // in the first piece
  std::optional<CompletionPromptLogprobs> prompt_logprobs;  // likewise
};

struct CompletionUsage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
};

// The logprobs of the prompt's own tokens, with at most `top` of the likeliest of each. `logprobs`:
// [ids - 1].
CompletionPromptLogprobs PromptLogprobsOf(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                                          std::span<const engine::TokenLogprobs> logprobs,
                                          int32_t top);

// One line. Without a usage the key is left out.
std::string CompletionJson(const CompletionHead& head, const std::vector<CompletionChoice>& choices,
                           const std::optional<CompletionUsage>& usage);

// INVALID_ARGUMENT 400, UNAUTHENTICATED 401, NOT_FOUND 404, ALREADY_EXISTS 409, RESOURCE_EXHAUSTED
// 429, UNAVAILABLE 503, DEADLINE_EXCEEDED 504, UNIMPLEMENTED 501, CANCELLED 499, else 500. The
// error's param is FieldOf(status), with 400 and 404; its code is ErrorCodeOf(status), with 401
// "invalid_api_key" and with 429 "rate_limit_exceeded".
HttpReply StatusReply(const absl::Status& status);

}  // namespace strata::server
