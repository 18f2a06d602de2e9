#pragma once

#include <cstdint>
#include <limits>
#include <span>

// Choice of a token from logits, where the logits are.
namespace strata::kernels {

struct SeenToken {
  int32_t id = 0;
  int32_t generated = 0;  // how often; 0: in the prompt only
};
struct TokenBias {
  int32_t id = 0;
  float bias = 0;  // -infinity bars the token
};
constexpr float kBarred = -std::numeric_limits<float>::infinity();

// A choice from one row of logits, [vocab]. In this order: repetition, frequency and presence
// penalties of `seen`, biases, allowed ids, temperature, min-p, top-k, top-p, one draw. A logit
// that is not finite is impossible; if all are, token 0 is chosen. The spans stay valid during the
// call.
struct TokenChoice {
  int64_t row = 0;
  float temperature = 1;  // 0: the highest logit, of equals the lowest id
  int32_t top_k = 0;      // 0 keeps all
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float frequency_penalty = 0;
  float presence_penalty = 0;
  std::span<const SeenToken> seen = {};  // each id once
  std::span<const TokenBias> biases = {};
  // Only these ids are chosen, however unlikely; empty: all ids. If all of them are barred, the
  // bars do not apply. A single allowed id is a given token: the choice reports its
  // log-probabilities.
  std::span<const int32_t> allowed = {};
  double uniform =
      0;  // in [0, 1): the draw among kept tokens, likeliest first, of equals the lower id
  int32_t num_logprobs =
      -1;  // likeliest tokens to report, [0, kMaxLogprobs]; -1: no logprob, not even the token's
};

constexpr int32_t kMaxLogprobs = 20;

// Log-probabilities are of the row's logits before every step of TokenChoice. Without
// TokenChoice::num_logprobs only the token is written.
struct ChosenToken {
  int32_t token = 0;
  int32_t rank = 0;  // among all tokens, from 1
  float logprob = 0;
  int32_t num_top = 0;                 // fewer than asked for if fewer are possible
  int32_t top_ids[kMaxLogprobs] = {};  // likeliest first
  float top_logprobs[kMaxLogprobs] = {};
};

}  // namespace strata::kernels
