#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/base/types.h"

namespace strata::engine {

// Figures of one step of the engine.
struct StepStats {
  int64_t number = 0;  // from 1
  Request::Time begin;
  double plan_seconds = 0;  // admission, scheduling, flattening; not while the last step ran
  Request::Time forward_begin;
  double forward_seconds = 0;  // the model, its choices, and planning of the next step meanwhile
  double sample_seconds = 0;   // the choices, at the end of forward_seconds; 0 if asynchronous
  double commit_seconds = 0;   // handing out, right after forward_seconds
  int32_t sequences = 0;
  int32_t prefill_tokens = 0;     // rows of prompts, and rows computed again
  int32_t decode_tokens = 0;      // rows that are a sequence's newest token
  int32_t recomputed_tokens = 0;  // prefill rows that were computed before a preemption
  int32_t preemptions = 0;
  int32_t running = 0;  // sequences, when the step has ended
  int32_t waiting = 0;
  int32_t blocks_used = 0;
  int64_t cache_bytes_read = 0;
  int64_t cache_bytes_written = 0;
  // Times of the tokens that this step handed to sinks, each token in exactly one of the two; stop
  // tokens, which are no output, are left out. The spans point into a buffer of the engine and are
  // valid during the call.
  std::span<const double> first_token_seconds;  // first tokens of sequences: since submission
  std::span<const double> inter_token_seconds;  // other tokens: since the sequence's previous one
};

// A request that was cancelled, or that reached its deadline or time limit.
struct AbortStats {
  double seconds = 0;  // from the call, or the limit, until its blocks were free
  int64_t steps = 0;   // steps of the engine that ended in between
};

// Phase that a sequence enters. Phases follow each other without a gap, until OnFinished.
enum class Phase : uint8_t {
  kQueued,     // the first phase
  kPrefill,    // computes its prompt, or recomputes tokens lost to a preemption
  kDecode,     // makes tokens
  kPreempted,  // waits again
};

struct PhaseChange {
  const std::string& request_id;
  int32_t index = 0;  // of the sequence; until the prompt is computed 0 stands for all
  Phase phase = Phase::kQueued;
  Request::Time time;
};

// Observes the engine, on the engine's thread; must return at once. For metrics and traces.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  // After each step with at least one row, when sinks have its tokens.
  virtual void OnStep(const StepStats& step) = 0;
  // In order of time; the first phase of sequences 1.. of a request comes at their fork.
  virtual void OnPhase(const PhaseChange&) {}
  // Before the sink's OnFinished: once for each sequence of a request that Submit accepted, for any
  // reason of its end.
  virtual void OnFinished(const std::string& request_id, const FinishedEvent& event) = 0;
  // One line for the operator: a slow path that the backend takes, and the reason.
  virtual void OnNote(const std::string& /*note*/) {}
  // When the blocks of an aborted request, running or queued, are free.
  virtual void OnAbort(const AbortStats& abort) = 0;
};

}  // namespace strata::engine
