#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/types.h"
#include "engine/serve/engine.h"
#include "server/security/key_account.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// A request from a front.
struct GenerationRequest {
  std::string request_id;               // unique among requests in flight; empty: drawn
  std::string log_id = {};              // name in logs; empty: request_id
  std::shared_ptr<Caller> caller = {};  // its caller; null: no keys are required
  // Text, token ids, or not given.
  std::variant<std::monostate, std::string, std::vector<int32_t>> prompt;
  bool add_special_tokens = true;   // the post-processor's, around a text
  bool skip_special_tokens = true;  // leaves special tokens out of the output's text
  // Keeps this many of the prompt's last tokens; -1: as many as leave room for max_tokens, or for
  // one token if max_tokens is a default.
  std::optional<int32_t> truncate_prompt_tokens;
  // Parameters that the request omits have the model's defaults (engine::SamplingDefaults). Without
  // bad_words: these are texts here.
  engine::SamplingParams sampling;
  bool draws_seed = true;       // sampling.seed is not given: a seed is drawn
  bool fits_max_tokens = true;  // sampling.max_tokens is a default: it is cut to fit the prompt
  std::vector<std::string> bad_words;  // texts that the output does not hold
  std::vector<std::string> stop;       // strings that end the output
  bool include_stop_string = false;
  std::optional<int32_t> prompt_logprobs;  // absent: none
  int32_t n = 1;
  int32_t priority = 0;
  std::optional<engine::Request::Time> deadline;  // the request then ends with DEADLINE_EXCEEDED
  std::optional<double> time_limit_seconds;       // from now; it then ends with its output so far
  std::vector<engine::AttentionHead> attention = {};
  bool bypass_prefix_cache = false;
  std::string cache_salt;
};

// Makes the engine's request: prompt tokenized, id and seed drawn, time limit counted from now.
// INVALID_ARGUMENT, "field: value and limit", for errors in text, id or time limit; the engine
// checks the rest.
absl::StatusOr<engine::Request> MakeEngineRequest(GenerationRequest request,
                                                  const engine::ModelInfo& model,
                                                  const Tokenizer& tokenizer);

}  // namespace strata::server
