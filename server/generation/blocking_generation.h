#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/generation/generation.h"

namespace strata::server {

// One generation for each of a request's prompts, for a front whose threads may block. Next takes
// the pump's events one at a time; output made meanwhile is merged into the next event. Generations
// begin together, and if one fails all end. Threads: one.
class BlockingGeneration {
 public:
  using PromptLogprobs = std::vector<engine::TokenLogprobs>;
  // A status is always the last event: OK after every GenerationFinished, otherwise the error.
  using Content = std::variant<GenerationStarted, PromptLogprobs, GenerationDelta,
                               GenerationFinished, absl::Status>;
  struct Event {
    size_t prompt = 0;  // the prompt's number; unused in the status
    Content content;
  };

  // Creates and starts all generations or none. Errors are those of Generation::Create and
  // StartAll; with several requests they name the prompt as "prompt[3]". REQUIRES: at least one
  // request.
  static absl::StatusOr<std::unique_ptr<BlockingGeneration>> Start(
      const GenerationContext& context, std::vector<GenerationRequest> requests);
  // Cancels running generations, and waits until they have ended.
  ~BlockingGeneration();
  BlockingGeneration(const BlockingGeneration&) = delete;
  BlockingGeneration& operator=(const BlockingGeneration&) = delete;

  // Waits for the next event. If the peer of `socket` hangs up meanwhile, or closes its side, all
  // generations are cancelled and soon end. REQUIRES: the status has not come yet.
  Event Next(int socket);
  // Call when the client cannot be reached; Next continues until the status.
  void Cancel();

 private:
  // Receives one generation's events, on the pump's thread.
  class Member final : public GenerationClient {
   public:
    Member(BlockingGeneration* all, size_t prompt) : all_(all), prompt_(prompt) {}
    void OnStarted(GenerationStarted started) override { Push(std::move(started)); }
    void OnPromptLogprobs(PromptLogprobs logprobs) override { Push(std::move(logprobs)); }
    void OnDelta(GenerationDelta delta) override { Push(std::move(delta)); }
    void OnFinished(GenerationFinished finished) override { Push(std::move(finished)); }
    void OnStalled() override {}  // the write in hand fails by the same timeout
    void OnClosed(const absl::Status& status) override { Push(status); }

    std::shared_ptr<Generation> generation;  // constant after Start

   private:
    void Push(Content content) { all_->Push({.prompt = prompt_, .content = std::move(content)}); }
    BlockingGeneration* const all_;
    const size_t prompt_;
  };

  explicit BlockingGeneration(int wake) : wake_(wake) {}
  absl::Status Create(const GenerationContext& context, std::vector<GenerationRequest> requests);
  void Push(Event event);
  bool Take(Event* event);
  void Wait(int socket);
  bool Close(const absl::Status& status);

  const int wake_;  // an eventfd: readable while an event is there
  std::vector<std::unique_ptr<Member>> members_;
  size_t open_ = 0;         // members that were started and whose status was not taken
  Member* busy_ = nullptr;  // its event was taken, and Resume has not been called for it
  bool hung_up_ = false;
  absl::Status status_;  // of the first that failed
  Mutex mutex_;
  std::deque<Event> events_ STRATA_GUARDED_BY(mutex_);
};

}  // namespace strata::server
