#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/token_history.h"
#include "engine/types.h"
#include "kvcache/cache_manager.h"

namespace strata::engine {

// One sequence in the making, owned by the scheduler. Positions [0, computed) have their cache
// entries; [computed, tokens.size()) are still to be run; the last token's logits give the next.
struct Sequence {
  using Time = std::chrono::steady_clock::time_point;

  std::string id;
  std::shared_ptr<RequestSink> sink;
  SamplingParams sampling;
  std::vector<int32_t> tokens;  // prompt, then what was generated
  TokenHistory history;         // of `tokens`, for the penalties
  int32_t prompt_size = 0;
  int32_t computed = 0;
  kvcache::BlockTable blocks;

  Time submitted;
  Time started;  // first scheduled
  Time first_token;
  Time last_token;
  double max_inter_token_seconds = 0;

  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return size() - prompt_size; }
  // Most positions that ever get a cache entry: the last generated token is never run.
  int64_t worst_case_tokens() const { return int64_t{prompt_size} + sampling.max_tokens - 1; }
};

}  // namespace strata::engine
