#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/decode/step_batch.h"
#include "engine/serve/engine.h"
#include "engine/serve/load_model.h"
#include "engine/serve/observer.h"
#include "engine/serve/scheduler.h"
#include "engine/serve/step_pacer.h"

namespace strata::engine {

// The engine without its thread: model, cache, scheduler, one step at a time. Tests drive it
// directly; Engine runs it on its thread.
class EngineCore {
 public:
  // `backend` as for LoadModel.
  static absl::StatusOr<std::unique_ptr<EngineCore>> Create(
      const EngineOptions& options, std::unique_ptr<kernels::Backend> backend = nullptr);

  // INVALID_ARGUMENT, "field: value and limit". Reads constants only: any thread.
  absl::Status Validate(const Request& request) const;
  // REQUIRES: validated.
  void Add(Request request, std::shared_ptr<RequestSink> sink, Request::Time submitted);
  // Ends the request now, whatever its state; its blocks are free on return. False if unknown.
  bool Finish(std::string_view id, FinishReason reason, const absl::Status& status);
  // The same for one of its sequences. While the prompt is computed there is only one for all.
  bool Finish(std::string_view id, int32_t index, FinishReason reason, const absl::Status& status);
  // Ends every request.
  void FinishAll(FinishReason reason, const absl::Status& status);

  bool HasWork() const {
    return !scheduler_.waiting().empty() || !scheduler_.running().empty() || ahead_.is_under_way;
  }
  // One step in two halves. Plan ends requests that have reached their deadline or time limit,
  // admits, and decides the ranges of the step; Execute runs them and hands out the tokens. If
  // memory is short in a step, its requests end with INTERNAL and the core goes on. If the device
  // has failed, all requests do.
  //
  // If the backend is asynchronous, Execute starts the next step before it waits for this one's
  // tokens, provided that the next step only continues this one's decodes (Scheduler::NextAhead):
  // the device then has work while the host hands out tokens. A sequence that ends meanwhile has
  // its token in the next step dropped. The next Plan then takes that step, and waiting sequences
  // run in the step after it.
  void Plan();
  void Execute();
  void Step() {
    Plan();
    Execute();
  }
  int64_t steps() const { return steps_; }  // steps that ended
  // OK, or INTERNAL with the error that ended the device: no step runs any more.
  const absl::Status& failure() const { return failure_; }

  // Called with the id of a request that ends, before its sink hears of the end: the id may then be
  // used again.
  using ReleaseHook = std::function<void(const std::string& id)>;
  void set_release_hook(ReleaseHook hook) { release_hook_ = std::move(hook); }
  // Called before a sequence gets a token, with the logits that decided it; no step then starts
  // early. For tests.
  using LogitsHook = std::function<void(const Sequence&, std::span<const float>)>;
  void set_logits_hook(LogitsHook hook) { logits_hook_ = std::move(hook); }

  // Whether Execute may start the next step early: for tests and benchmarks.
  void set_runs_ahead(bool runs_ahead) { runs_ahead_ = runs_ahead; }
  int64_t steps_ahead() const { return steps_ahead_; }  // steps started early

  const ModelInfo& model() const { return model_.info; }
  const Scheduler& scheduler() const { return scheduler_; }
  const kvcache::CacheManager& cache() const { return *model_.cache; }
  kernels::Backend& backend() { return *model_.backend; }
  absl::Status CheckIntegrity() const;

 private:
  EngineCore(LoadedModel model, const EngineOptions& options);
  // A step: its ranges, its rows, and its figures for the observer.
  struct StepRun {
    StepPlan plan;  // the sequence of a range is null if it ended while the step was under way
    StepBatch batch;
    StepStats stats;  // its spans point into first_token_seconds_ and inter_token_seconds_
    absl::Status started;
    bool is_under_way = false;
  };

  void Expire(Request::Time now);
  void Flatten();
  void FlattenAhead();
  void AddSequence(const ScheduledRange& range, StepBatch* batch);
  void AddProbes(std::span<const AttentionHead> heads, int32_t size);
  void AddSample(const Sequence& sequence, int32_t position, StepBatch* batch);
  void AddPromptLogprob(const Sequence& sequence, int32_t position);
  void Start(StepRun* step);
  void RunAhead();
  void Fail(const absl::Status& status);
  void TellStep(Request::Time begin, Request::Time forwarded);
  const Sequence* Ahead(size_t i, size_t stages) const;
  void Commit();
  void SetPhase(Sequence& sequence, Phase phase, Request::Time now);
  void CommitRange(const ScheduledRange& range, std::span<const StepBatch::Output> outputs);
  void KeepPromptLogprobs(const ScheduledRange& range, std::span<const StepBatch::Output> outputs);
  void Accept(Sequence& sequence, const StepBatch::Output& sample, size_t choice,
              Request::Time now);
  bool EndsOutput(const Sequence& sequence, int32_t token) const;
  void End(Sequence& sequence, FinishReason reason, const absl::Status& status,
           std::optional<TokenEvent> end_token = std::nullopt);
  RequestMetrics MetricsOf(const Sequence& sequence) const;

  const LoadedModel model_;
  const std::chrono::milliseconds priority_ageing_;
  EngineObserver* const observer_;  // may be null
  Scheduler scheduler_;
  StepPacer pacer_;
  StepRun now_;
  StepRun ahead_;  // the step after it, if under way
  bool runs_ahead_ = true;
  int64_t steps_ahead_ = 0;
  std::vector<double> first_token_seconds_;
  std::vector<double> inter_token_seconds_;
  int64_t steps_ = 0;
  absl::Status failure_;
  Request::Time last_step_end_;
  uint64_t num_requests_ = 0;
  // Deadlines and time limits of the requests in flight, the earlier of each.
  std::set<std::pair<Request::Time, RequestState*>> limits_;
  ReleaseHook release_hook_;
  LogitsHook logits_hook_;
};

}  // namespace strata::engine
