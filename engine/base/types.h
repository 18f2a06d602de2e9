#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace strata::engine {

struct LogitBias {
  int32_t id = 0;
  float bias = 0;  // finite; added to the logit
};

// Choice of the next token from the logits. Applied in this order: repetition, frequency and
// presence penalty, logit bias, ids barred by min_tokens and bad_words, allowed_ids, temperature,
// min-p, top-k, top-p, one draw.
struct SamplingParams {
  float temperature = 1.0F;  // >= 0; 0 is greedy (the lowest id wins a tie)
  int32_t top_k = 0;         // >= 0; 0 keeps all
  float top_p = 1.0F;        // [0, 1]; 0 is greedy
  float min_p = 0.0F;        // [0, 1]; of the most likely token's probability
  // A positive logit of a token in prompt or output is divided by it, a negative one multiplied
  // (Keskar et al., arXiv 1909.05858). (0, 100]; 1 changes nothing.
  float repetition_penalty = 1.0F;
  float frequency_penalty = 0.0F;  // [-2, 2]; subtracted once for each time a token was generated
  float presence_penalty = 0.0F;   // [-2, 2]; subtracted from every token that was generated
  std::vector<LogitBias> logit_bias = {};
  // Only these ids are drawn; empty: all ids. If all of them are barred, the bars do not apply.
  std::vector<int32_t> allowed_ids = {};
  // Token sequences that the output never holds. The last id of a sequence is barred if the ids
  // before it are the output's newest. A sequence is not empty.
  std::vector<std::vector<int32_t>> bad_words = {};
  uint64_t seed = 0;         // of the counter-based random numbers
  int32_t max_tokens = 256;  // >= 0; 0: the prompt is computed and no token is drawn
  int32_t min_tokens = 0;    // [0, max_tokens]; no end-of-sequence or stop id is drawn before
  std::vector<int32_t> stop_ids = {};
  bool ignore_eos = false;
  // Log-probabilities of each generated token and of this many likeliest tokens, [0, 20]; absent:
  // none. From the model's own distribution, before everything above.
  std::optional<int32_t> logprobs = {};

  bool greedy() const { return temperature == 0 || top_p == 0; }
};

// Upper bound on the cache entries of a sequence: the last generated token gets none.
constexpr int64_t MostCached(int64_t prompt_tokens, int64_t max_tokens) {
  return prompt_tokens + (max_tokens > 0 ? max_tokens - 1 : 0);
}

// Defaults of generation_config.json for parameters that a request omits.
struct SamplingDefaults {
  std::optional<float> temperature = {};
  std::optional<int32_t> top_k = {};
  std::optional<float> top_p = {};
  std::optional<float> min_p = {};
  std::optional<float> repetition_penalty = {};
  std::optional<int32_t> max_tokens = {};

  // The parameters of a request that omits them all.
  SamplingParams Params() const {
    SamplingParams params;
    params.temperature = temperature.value_or(params.temperature);
    params.top_k = top_k.value_or(params.top_k);
    params.top_p = top_p.value_or(params.top_p);
    params.min_p = min_p.value_or(params.min_p);
    params.repetition_penalty = repetition_penalty.value_or(params.repetition_penalty);
    params.max_tokens = max_tokens.value_or(params.max_tokens);
    return params;
  }
};

// A query head of a layer, both from 0.
struct AttentionHead {
  int32_t layer = 0;
  int32_t head = 0;
};

// Input of the engine: tokens in, tokens out.
struct Request {
  using Time = std::chrono::steady_clock::time_point;

  std::string id;  // unique among the requests in flight
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int32_t n = 1;  // sequences made from the prompt, [1, 64]; each draws its own random numbers
  // Lower is served first; [-100, 100]. A level is worth a number of seconds of waiting
  // (EngineOptions::priority_ageing), so that no priority starves another.
  int32_t priority = 0;
  std::optional<Time> deadline = {};    // the request then ends with DEADLINE_EXCEEDED
  std::optional<Time> time_limit = {};  // it then ends with kTimeLimit and its output so far
  // As SamplingParams::logprobs, for every prompt token but the first. The whole prompt is then
  // computed, without the prefix cache.
  std::optional<int32_t> prompt_logprobs = {};
  // Heads whose attention probabilities are reported with each generated token.
  std::vector<AttentionHead> attention = {};
  bool bypass_prefix_cache = false;  // neither read nor filled
  std::string cache_salt = {};       // prefixes are shared among equal salts only
};

enum class FinishReason : uint8_t {
  kNone,
  kStop,       // an end-of-sequence or stop id (FinishedEvent::end_token), or Engine::Stop
  kLength,     // max_tokens
  kTimeLimit,  // Request::time_limit
  kCancelled,  // by the caller
  kError,
};

// "stop", "length", "time_limit", "cancelled", "error"; "none".
constexpr const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kTimeLimit:
      return "time_limit";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

// Times are in seconds on the steady clock.
struct RequestMetrics {
  double queue_seconds = 0;    // submitted to first scheduled
  double prefill_seconds = 0;  // first scheduled to first token
  double decode_seconds = 0;   // first token to last token
  double time_to_first_token_seconds = 0;
  double mean_inter_token_seconds = 0;
  double max_inter_token_seconds = 0;
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;  // prompt tokens taken from the prefix cache
  int32_t generated_tokens = 0;
  int32_t preemptions = 0;
  // Most bytes of cache blocks with entries of this request, by kind, and the bytes of as many
  // blocks in a plain cache.
  size_t peak_key_bytes = 0;
  size_t peak_value_bytes = 0;
  size_t peak_score_bytes = 0;
  size_t plain_cache_bytes = 0;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0;
};
struct TokenLogprobs {
  float logprob = 0;              // of the token itself
  int32_t rank = 0;               // of the token among all, from 1
  std::vector<TokenLogprob> top;  // the likeliest tokens, as many as asked for, likeliest first
};

// Events of a request's sink: started once, prompt logprobs once if asked for, then for each of its
// n sequences any number of token events and one finished. A request that is refused or cancelled
// while queued gets only finished, once for each sequence.
struct StartedEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
};
struct TokenEvent {
  int32_t index = 0;  // of the sequence within the request, [0, n)
  int32_t token = 0;
  int32_t position = 0;  // of the token in the sequence, prompt included
  std::optional<TokenLogprobs> logprobs = {};
  // [Request::attention][position]: the probabilities of the token before this one as a query, over
  // itself and all earlier positions; one head after the other. Empty unless asked for.
  std::vector<float> attention = {};
};
struct FinishedEvent {
  int32_t index = 0;
  FinishReason reason = FinishReason::kNone;
  absl::Status status = {};  // not OK with kError and kCancelled
  RequestMetrics metrics;    // of this sequence
  // The end-of-sequence or stop id that ended the sequence; it is no part of the output.
  std::optional<TokenEvent> end_token = {};
};

// Called on the engine's thread; must return at once (append and signal, no I/O).
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void OnStarted(const StartedEvent& event) = 0;
  // [prompt tokens - 1]: for the tokens at positions 1, 2, ...
  virtual void OnPromptLogprobs(std::vector<TokenLogprobs> logprobs) = 0;
  virtual void OnToken(TokenEvent event) = 0;
  virtual void OnFinished(FinishedEvent event) = 0;
};

}  // namespace strata::engine
