#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/generation/blocking_generation.h"
#include "server/http/http_message.h"
#include "server/openai/openai_json.h"
#include "server/openai/openai_logprobs.h"
#include "server/openai/openai_request.h"

namespace strata::server {

// One completion after its acceptance. Choice p * n + i is sequence i of prompt p. Destruction ends
// its generations. One thread.
class OpenAiCompletion {
 public:
  using Event = BlockingGeneration::Event;

  // Errors as BlockingGeneration::Start. `head` is the common part of every answer; `socket` is
  // polled for the client's hang-up. The objects that `context` points to must outlive the
  // completion.
  static absl::StatusOr<std::unique_ptr<OpenAiCompletion>> Start(const GenerationContext& context,
                                                                 CompletionRequest request,
                                                                 CompletionHead head, int socket);

  bool streams() const { return request_.stream; }
  Event Next() { return generation_->Next(socket_); }

  // The whole answer, or the error that ended it.
  HttpReply Whole();
  // Server-sent events, beginning with `event`, the first. A later error is an event of its own;
  // [DONE] is always last.
  void Stream(Event event, const HttpReply::Write& write);

 private:
  // A prompt, and its ids and logprobs.
  struct Prompt {
    std::string text;  // as given; empty: the text of its tokens
    std::vector<int32_t> ids;
    BlockingGeneration::PromptLogprobs logprobs;
  };
  // One of the choices while it is generated.
  struct Sequence {
    bool begun = false;
    std::optional<LogprobsWriter> writer;  // if log-probabilities are asked for
  };

  OpenAiCompletion(const GenerationContext& context, CompletionHead head, int socket)
      : context_(context), head_(std::move(head)), socket_(socket) {}
  std::vector<GenerationRequest> SplitPrompts();
  std::optional<CompletionChoice> Take(Event event);
  CompletionChoice TakeDelta(size_t prompt, const GenerationDelta& delta);
  CompletionChoice TakeFinished(size_t prompt, const GenerationFinished& finished);
  CompletionChoice Begin(size_t prompt, int32_t index);
  void BeginLogprobs(const Prompt& prompt, LogprobsWriter* writer, CompletionChoice* choice) const;
  std::string PromptText(const Prompt& prompt) const;
  bool EndsByItself(int32_t token) const;
  std::optional<CompletionUsage> ChunkUsage() const;

  const GenerationContext context_;
  const CompletionHead head_;
  const int socket_;
  CompletionRequest request_;  // its prompts have been moved out
  std::vector<Prompt> prompts_;
  std::vector<Sequence> sequences_;  // by choice, up to the last with an event
  CompletionUsage usage_;
  std::unique_ptr<BlockingGeneration> generation_;
};

}  // namespace strata::server
