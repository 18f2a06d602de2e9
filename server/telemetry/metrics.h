#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "engine/serve/engine.h"
#include "engine/serve/observer.h"

namespace strata::server {

// The series that Prometheus scrapes: vLLM's names for the four that Kubernetes' inference gateway
// reads, `strata_` for the rest. Counters and histograms grow at each event; gauges are made at the
// scrape, all from one Engine::Load, so that they agree with each other and with the pool.
//
// Tokens are counted, not messages. A request's prompt is counted once, for any number of
// sequences; sequences and their tokens are counted each. Prompt and cached tokens, and the
// latencies of a whole sequence, are counted when it ends; time to first token and inter-token
// latency with the step that made the token. Generated tokens are tokens handed to a front: tokens
// made after a stop string, or for a client that is gone, do not count.
//
// Threads: every method may be called from any thread. The observer's methods take a short lock for
// each histogram, do no I/O and make no allocation that grows with the batch.
class Metrics final : public engine::EngineObserver {
 public:
  Metrics();
  ~Metrics() override;

  void OnStep(const engine::StepStats& step) override;
  void OnFinished(const std::string& request_id, const engine::FinishedEvent& event) override;
  void OnAbort(const engine::AbortStats& abort) override;
  void OnNote(const std::string& note) override;  // to the log, as a warning

  // A request that was refused, by a front or by Engine::Submit.
  void CountRejection(const absl::Status& status);
  // Tokens of the output handed to a front.
  void CountGeneratedTokens(size_t count);
  // A line that the access log could not keep.
  void CountDroppedLogLine();

  // The text exposition format, version 0.0.4. Without an engine (it is loading): no gauges.
  std::string Render() const;
  std::string Render(const engine::ModelInfo& model, const engine::Engine::Load& load) const;

 private:
  struct Series;
  const std::unique_ptr<Series> series_;
};

}  // namespace strata::server
