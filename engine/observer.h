#pragma once

#include <cstdint>
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
  virtual void OnStep(const StepStats& step) = 0;
  virtual void OnFinished(const std::string& request_id, const FinishedEvent& event) = 0;
  virtual void OnAbort(const AbortStats& abort) = 0;
};

}  // namespace strata::engine
