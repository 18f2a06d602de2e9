#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "engine/base/types.h"
#include "engine/decode/token_history.h"
#include "engine/serve/observer.h"
#include "kvcache/blocks/cache_manager.h"

namespace strata::engine {

// A step reads each running sequence and its request once, in an order that the hardware cannot
// predict: the members it reads come first, in as few lines as possible, and are prefetched some
// turns ahead.
inline constexpr size_t kCacheLine = 64;
inline constexpr size_t kPrefetchAhead = 5;  // turns of a loop over sequences

// State that the sequences of one request share.
struct alignas(kCacheLine) RequestState {
  std::shared_ptr<RequestSink> sink;
  int32_t prompt_size = 0;
  bool owes_prompt_logprobs = false;  // asked for and not reported yet
  bool wants_attention = false;
  Request request;  // its prompt is moved into the first sequence
  Request::Time submitted;
  // The place in the order of service, earliest first: the time of arrival, later by
  // priority_ageing for each level of priority. It never changes, so no sequence waits for ever.
  Request::Time rank;
  uint64_t number = 0;                         // of arrival; decides between equal ranks
  Request::Time started;                       // first scheduled
  int32_t cached_tokens = 0;                   // found in the prefix cache when it started
  int32_t unfinished = 0;                      // sequences
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
struct alignas(kCacheLine) Sequence {
  std::shared_ptr<RequestState> state;
  std::vector<int32_t> tokens;  // prompt, then generated tokens
  int32_t newest = 0;           // tokens.back(), here so that a decode need not read `tokens`
  int32_t computed = 0;
  int32_t most_computed = 0;  // highest `computed` so far, before a preemption as well
  int64_t step = 0;           // the last step it was scheduled in
  kvcache::BlockTable blocks;

  Request::Time last_token;
  double max_inter_token_seconds = 0;
  int32_t index = 0;
  bool forked = false;  // one of n, or the only one; before the fork it stands for all n
  Phase phase = Phase::kQueued;
  int32_t preemptions = 0;
  TokenHistory history;  // of `tokens`, for the penalties
  Request::Time first_token;

  const Request& request() const { return state->request; }
  const SamplingParams& sampling() const { return state->request.sampling; }
  const std::string& id() const { return state->request.id; }
  int32_t size() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated() const { return size() - state->prompt_size; }
  std::span<const int32_t> output() const {
    return std::span(tokens).subspan(static_cast<size_t>(state->prompt_size));
  }
  // Sequences that this one stands for.
  int32_t width() const { return forked ? 1 : state->request.n; }

  void Append(int32_t token) {
    tokens.push_back(token);
    newest = token;
    history.AddOutput(token);
  }

  // Prefetches in stages, each when the one before has arrived: members that Scheduler::Next and
  // Flatten read; memory that these members point to; members for the commit; the sink.
  void Prefetch() const { PrefetchLines<0, 2>(this); }
  void PrefetchPointees() const {
    PrefetchLines<0, 1>(state.get());
    __builtin_prefetch(blocks.ids().data() + blocks.num_blocks() - 1);
  }
  void PrefetchForCommit() const {
    PrefetchLines<2, 4>(this);
    PrefetchLines<0, 3>(state.get());
    __builtin_prefetch(tokens.data() + tokens.size());
  }
  void PrefetchSink() const { PrefetchLines<0, 2>(state->sink.get()); }

 private:
  template <size_t begin, size_t end>
  static void PrefetchLines(const void* from) {
    for (size_t i = begin; i < end; ++i) {
      __builtin_prefetch(static_cast<const char*>(from) + i * kCacheLine);
    }
  }
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
