#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "engine/base/types.h"

namespace strata::engine {

// What one step of the engine did.
struct StepStats {
  int64_t number = 0;  // from 1
  Request::Time begin;
  double plan_seconds = 0;  // admission, scheduling, flattening; not while the last step ran
  Request::Time forward_begin;
  double forward_seconds = 0;  // the model, and the next step's plan where that is made meanwhile
  double commit_seconds = 0;   // sampling and handing over, right after it
  double sample_seconds = 0;   // of commit_seconds, spread over it; 0 unless TimesSampling()
  int32_t sequences = 0;
  int32_t prefill_tokens = 0;     // rows of prompts, and of what is computed again
  int32_t decode_tokens = 0;      // rows that are a sequence's newest token
  int32_t recomputed_tokens = 0;  // of the prefill rows: computed before a preemption already
  int32_t preemptions = 0;
  int32_t running = 0;  // sequences, when the step has ended
  int32_t waiting = 0;
  int32_t blocks_used = 0;
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

// What a sequence does from now on. Phases follow each other without a gap, until OnFinished.
enum class Phase : uint8_t {
  kQueued,     // first of all
  kPrefill,    // computes its prompt, or again what a preemption took
  kDecode,     // makes tokens
  kPreempted,  // waits again
};

struct PhaseChange {
  const std::string& request_id;
  int32_t index = 0;  // of the sequence; until the prompt is computed 0 stands for all
  Phase phase = Phase::kQueued;
  Request::Time time;
};

// Told what the engine does, on the engine's thread; must return at once. For metrics and traces.
class EngineObserver {
 public:
  virtual ~EngineObserver() = default;
  // After each step in which something ran, when its tokens are with the sinks.
  virtual void OnStep(const StepStats& step) = 0;
  // In the order of things; the first of a sequence 1.. of a request comes when it is forked.
  virtual void OnPhase(const PhaseChange&) {}
  // Asked once: whether StepStats::sample_seconds is worth reading the clock twice for each token.
  virtual bool TimesSampling() const { return false; }
  // Before the sink's OnFinished: once for each sequence of a request that Submit accepted,
  // whatever ended it.
  virtual void OnFinished(const std::string& request_id, const FinishedEvent& event) = 0;
  // One line for whoever runs the server: a slow path that the backend takes, and why.
  virtual void OnNote(const std::string& /*note*/) {}
  // When the blocks of a request that was aborted, running or queued, are free.
  virtual void OnAbort(const AbortStats& abort) = 0;
};

}  // namespace strata::engine
