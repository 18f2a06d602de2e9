#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "engine/token_history.h"
#include "engine/types.h"
#include "kvcache/cache_manager.h"

namespace strata::engine {

// What the sequences of one request have in common.
struct RequestState {
  Request request;  // its prompt is moved into the first sequence
  std::shared_ptr<RequestSink> sink;
  int32_t prompt_size = 0;
  Request::Time submitted;
  // The place in the order of service, earliest first: the time of arrival, later by
  // priority_ageing for each level of priority. It never changes, so nobody waits for ever.
  Request::Time rank;
  uint64_t number = 0;                         // of arrival; decides between equal ranks
  Request::Time started;                       // first scheduled
  int32_t cached_tokens = 0;                   // found in the prefix cache when it started
  int32_t unfinished = 0;                      // sequences
  bool owes_prompt_logprobs = false;           // asked for and not told yet
  std::vector<TokenLogprobs> prompt_logprobs;  // [prompt_size - 1] while owed, as far as computed

  bool has_started() const { return started != Request::Time(); }
  // The deadline or the time limit, whichever comes first.
  Request::Time limit() const {
    return std::min(request.deadline.value_or(Request::Time::max()),
                    request.time_limit.value_or(Request::Time::max()));
  }
};

// One sequence in the making, owned by the scheduler. Positions [0, computed) have their cache
// entries; [computed, tokens.size()) are still to be run; the last token's logits give the next.
//
// A request of n sequences starts as one; when its prompt is computed it is forked into n.
struct Sequence {
  std::shared_ptr<RequestState> state;
  int32_t index = 0;
  bool forked = false;          // is one of n, or the only one; until then it stands for all n
  std::vector<int32_t> tokens;  // prompt, then what was generated
  TokenHistory history;         // of `tokens`, for the penalties
  int32_t computed = 0;
  int32_t most_computed = 0;  // before a preemption as well
  int32_t preemptions = 0;
  int64_t step = 0;  // the last it was scheduled in
  kvcache::BlockTable blocks;

  Request::Time first_token;
  Request::Time last_token;
  double max_inter_token_seconds = 0;

  const Request& request() const { return state->request; }
  const SamplingParams& sampling() const { return state->request.sampling; }
  const std::string& id() const { return state->request.id; }
  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return size() - state->prompt_size; }
  // Sequences that this one stands for.
  int32_t width() const { return forked ? 1 : state->request.n; }
};

// The order of service.
struct ServedBefore {
  using is_transparent = void;
  static std::tuple<Request::Time, uint64_t, int32_t> Key(const Sequence& sequence) {
    return {sequence.state->rank, sequence.state->number, sequence.index};
  }
  bool operator()(const Sequence& a, const Sequence& b) const { return Key(a) < Key(b); }
  bool operator()(const std::unique_ptr<Sequence>& a, const std::unique_ptr<Sequence>& b) const {
    return (*this)(*a, *b);
  }
  bool operator()(const std::unique_ptr<Sequence>& a, const Sequence& b) const {
    return (*this)(*a, b);
  }
  bool operator()(const Sequence& a, const std::unique_ptr<Sequence>& b) const {
    return (*this)(a, *b);
  }
};

}  // namespace strata::engine
