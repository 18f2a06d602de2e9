#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/load_model.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/step_batch.h"

namespace strata::engine {

// The engine without its thread: model, cache, scheduler, one step at a time. Tests drive it
// directly; Engine runs it on its thread.
class EngineCore {
 public:
  static absl::StatusOr<std::unique_ptr<EngineCore>> Create(const EngineOptions& options);

  // INVALID_ARGUMENT, "field: value and limit". Reads constants only: any thread.
  absl::Status Validate(const Request& request) const;
  // REQUIRES: validated.
  void Add(Request request, std::shared_ptr<RequestSink> sink, Sequence::Time submitted);
  // Ends the request now, whatever its state; its blocks are free on return. False if unknown.
  bool Finish(std::string_view id, FinishReason reason, const absl::Status& status);
  // Ends every request.
  void FinishAll(FinishReason reason, const absl::Status& status);

  bool HasWork() const { return !scheduler_.waiting().empty() || !scheduler_.running().empty(); }
  // Starts the waiting requests that fit.
  void Admit();
  // Admits, runs one batch, hands out the tokens. A device error ends the requests of the step with
  // it, and the core goes on.
  void Step();

  // Called with the id of a request that ends, before its sink hears of it: from then on the id may
  // be used again.
  using ReleaseHook = std::function<void(const std::string& id)>;
  void set_release_hook(ReleaseHook hook) { release_hook_ = std::move(hook); }
  // Called with the logits that choose each token, before it is chosen. For tests.
  using LogitsHook = std::function<void(const Sequence&, std::span<const float>)>;
  void set_logits_hook(LogitsHook hook) { logits_hook_ = std::move(hook); }

  const ModelInfo& model() const { return model_.info; }
  const Scheduler& scheduler() const { return scheduler_; }
  const kvcache::CacheManager& cache() const { return *model_.cache; }
  kernels::Backend& backend() { return *model_.backend; }
  absl::Status CheckIntegrity() const;

 private:
  EngineCore(LoadedModel model, const SchedulerOptions& options);
  void Flatten(const std::vector<ScheduledRange>& plan);
  void Commit(const std::vector<ScheduledRange>& plan, std::span<const float> logits);
  void Accept(Sequence& sequence, SampledToken sampled, Sequence::Time now);
  bool EndsOutput(const Sequence& sequence, int32_t token) const;
  RequestMetrics MetricsOf(const Sequence& sequence) const;

  const LoadedModel model_;
  Scheduler scheduler_;
  Sampler sampler_;
  StepBatch batch_;
  ReleaseHook release_hook_;
  LogitsHook logits_hook_;
};

}  // namespace strata::engine
