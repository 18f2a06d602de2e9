#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace strata::engine {

// How the next token is chosen from the logits. Applied in this order: temperature, min-p, top-k,
// top-p, one draw.
struct SamplingParams {
  float temperature = 1.0F;  // >= 0; 0 is greedy (the lowest id wins a tie)
  int32_t top_k = 0;         // >= 0; 0 keeps all
  float top_p = 1.0F;        // (0, 1]
  float min_p = 0.0F;        // [0, 1]; of the most likely token's probability
  uint64_t seed = 0;         // of the counter-based random numbers
  int32_t max_tokens = 256;  // >= 1
  std::vector<int32_t> stop_ids;
  bool ignore_eos = false;
};

// What the engine is asked for: tokens in, tokens out.
struct Request {
  std::string id;  // unique among the requests in flight
  std::vector<int32_t> prompt;
  SamplingParams sampling;
};

enum class FinishReason : uint8_t {
  kNone,
  kStop,       // an end-of-sequence or stop id; that token is not part of the output
  kLength,     // max_tokens, or the model's positions are used up
  kCancelled,  // by the caller
  kError,
};

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
  // Most bytes of cache blocks with entries of this request, by kind, and what as many blocks of a
  // plain cache would have taken.
  size_t peak_key_bytes = 0;
  size_t peak_value_bytes = 0;
  size_t peak_score_bytes = 0;
  size_t plain_cache_bytes = 0;
};

// What a request's sink is told, in order: started once, any number of token events, finished once.
// A request that is refused or cancelled while queued goes straight to finished.
struct StartedEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
};
struct TokenEvent {
  int32_t token = 0;
  int32_t position = 0;  // of the token in the sequence, prompt included
};
struct FinishedEvent {
  FinishReason reason = FinishReason::kNone;
  absl::Status status;  // not OK with kError and kCancelled
  RequestMetrics metrics;
};

// Called on the engine's thread; must return at once (append and signal, no I/O).
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void OnStarted(const StartedEvent& event) = 0;
  virtual void OnToken(const TokenEvent& event) = 0;
  virtual void OnFinished(const FinishedEvent& event) = 0;
};

}  // namespace strata::engine
