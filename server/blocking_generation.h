#pragma once

#include <deque>
#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/mutex.h"
#include "server/generation.h"

namespace strata::server {

// A generation for a front whose threads may block: what the pump tells is taken with Next, one
// thing at a time, and what is made meanwhile is merged into the next. Threads: one.
class BlockingGeneration final : public GenerationClient {
 public:
  // A status is always the last event: OK after GenerationFinished, else why it ended.
  using PromptLogprobs = std::vector<engine::TokenLogprobs>;
  using Event = std::variant<GenerationStarted, PromptLogprobs, GenerationDelta, GenerationFinished,
                             absl::Status>;

  // Creates and starts it; errors are those of Generation::Create and Start.
  static absl::StatusOr<std::unique_ptr<BlockingGeneration>> Start(const GenerationContext& context,
                                                                   GenerationRequest request);
  // Cancels what still runs, and waits until it has ended.
  ~BlockingGeneration() override;

  const std::string& id() const { return generation_->id(); }

  // Waits for the next event. When the peer of `socket` hangs up meanwhile, or closes its side, the
  // generation is cancelled and soon ends. REQUIRES: the status has not come yet.
  Event Next(int socket);
  // The client cannot be reached; Next goes on until the status.
  void Cancel() { generation_->Cancel(); }

  // The pump's thread.
  void OnStarted(GenerationStarted started) override { Push(std::move(started)); }
  void OnPromptLogprobs(PromptLogprobs logprobs) override { Push(std::move(logprobs)); }
  void OnDelta(GenerationDelta delta) override { Push(std::move(delta)); }
  void OnFinished(const GenerationFinished& finished) override { Push(finished); }
  void OnStalled() override {}  // the write in hand fails by the same timeout
  void OnClosed(const absl::Status& status) override { Push(status); }

 private:
  explicit BlockingGeneration(int wake) : wake_(wake) {}
  void Push(Event event);
  bool Take(Event* event);

  const int wake_;                          // an eventfd: readable while an event is there
  std::shared_ptr<Generation> generation_;  // constant after Start
  bool closed_ = true;                      // nothing runs: not started, or its status was taken
  bool busy_ = false;  // an event was taken that Resume has not been called for
  bool hung_up_ = false;
  Mutex mutex_;
  std::deque<Event> events_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::server
