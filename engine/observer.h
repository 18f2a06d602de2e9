#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/types.h"

namespace strata::engine {

// What one step of the engine did.
struct StepStats {
  int64_t number = 0;  // from 1
  Request::Time begin;
  double plan_seconds = 0;     // admission, scheduling, flattening
  double forward_seconds = 0;  // the model
  double commit_seconds = 0;   // sampling and handing over
  int32_t sequences = 0;
  int32_t prefill_tokens = 0;     // rows of prompts, and of what is computed again
  int32_t decode_tokens = 0;      // rows that are a sequence's newest token
  int32_t recomputed_tokens = 0;  // of the prefill rows: computed before a preemption already
  int32_t preemptions = 0;
  int64_t cache_bytes_read = 0;
  int64_t cache_bytes_written = 0;
  // Of the tokens that this step handed to sinks, each in exactly one of the two; stop tokens,
  // which are no output, are left out. Point into a buffer of the engine's that lives as long as
  // the call.
  std::span<const double> first_token_seconds;  // of a sequence's first: since it was submitted
  std::span<const double> inter_token_seconds;  // of the others: since the sequence's previous
};

// A request that was cancelled, or whose deadline or time limit came.
struct AbortStats {
  double seconds = 0;  // from the call, or the limit, until its blocks were free
  int64_t steps = 0;   // of the engine that ended in between
};

// Told what the engine does, on the engine's thread; must return at once. For metrics and traces.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  // After each step in which something ran, when its tokens are with the sinks.
  virtual void OnStep(const StepStats& step) = 0;
  // Before the sink's OnFinished: once for each sequence of a request that Submit accepted,
  // whatever ended it.
  virtual void OnFinished(const std::string& request_id, const FinishedEvent& event) = 0;
  // When the blocks of a request that was aborted, running or queued, are free.
  virtual void OnAbort(const AbortStats& abort) = 0;
};

}  // namespace strata::engine
