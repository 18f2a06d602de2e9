#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/load_model.h"
#include "engine/observer.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/step_batch.h"
#include "engine/step_pacer.h"

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

  bool HasWork() const { return !scheduler_.waiting().empty() || !scheduler_.running().empty(); }
  // One step in two halves. Plan ends what has reached its deadline or time limit, admits, and
  // decides what runs; Execute runs it and hands out the tokens. Where memory is short in a step
  // its requests end with INTERNAL and the core goes on. Where the device has failed all do.
  void Plan();
  void Execute();
  void Step() {
    Plan();
    Execute();
  }
  int64_t steps() const { return steps_; }  // that ended
  // OK, or INTERNAL with the error that ended the device: no step can be run any more.
  const absl::Status& failure() const { return failure_; }

  // Called with the id of a request that ends, before its sink hears of it: from then on the id may
  // be used again.
  using ReleaseHook = std::function<void(const std::string& id)>;
  void set_release_hook(ReleaseHook hook) { release_hook_ = std::move(hook); }
  // Called with the logits that choose each token, before it is chosen, by the host. For tests.
  using LogitsHook = std::function<void(const Sequence&, std::span<const float>)>;
  void set_logits_hook(LogitsHook hook) { logits_hook_ = std::move(hook); }

  const ModelInfo& model() const { return model_.info; }
  const Scheduler& scheduler() const { return scheduler_; }
  const kvcache::CacheManager& cache() const { return *model_.cache; }
  kernels::Backend& backend() { return *model_.backend; }
  absl::Status CheckIntegrity() const;

 private:
  EngineCore(LoadedModel model, const EngineOptions& options);
  void Expire(Request::Time now);
  void Flatten();
  void AddProbes(std::span<const AttentionHead> heads, int32_t size);
  bool BackendChooses() const;
  void AddChoices(const Sequence& sequence);
  const Sequence* Ahead(size_t i, size_t stages) const;
  void Commit(std::span<const float> logits);
  void SetPhase(Sequence& sequence, Phase phase, Request::Time now);
  SampledToken Sample(const Sequence& sequence, std::span<const float> logits);
  void CommitRange(const ScheduledRange& range, std::span<const float> logits,
                   std::span<const float> probabilities);
  void KeepPromptLogprobs(const ScheduledRange& range, std::span<const float> logits);
  void Accept(Sequence& sequence, std::span<const float> logits,
              std::span<const float> probabilities, Request::Time now);
  bool EndsOutput(const Sequence& sequence, int32_t token) const;
  void End(Sequence& sequence, FinishReason reason, const absl::Status& status);
  RequestMetrics MetricsOf(const Sequence& sequence) const;

  const LoadedModel model_;
  const std::chrono::milliseconds priority_ageing_;
  EngineObserver* const observer_;  // may be null
  const bool times_sampling_;
  Scheduler scheduler_;
  StepPacer pacer_;
  Sampler sampler_;
  StepPlan plan_;
  StepBatch batch_;
  size_t num_accepted_ = 0;  // of the step's choices
  StepStats stats_;          // of the step under way; its spans are of the two below
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
