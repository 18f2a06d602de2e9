#include "server/openai.h"

#include <chrono>
#include <iterator>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/blocking_generation.h"
#include "server/json_reader.h"
#include "server/openai_json.h"
#include "server/openai_request.h"
#include "server/unicode.h"

namespace strata::server {
namespace {

int64_t Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

std::string ServerSentEvent(const std::string& data) {
  return absl::StrCat("data: ", data, "\n\n");
}

absl::Status NotServed(const std::string& asked, const std::string& served) {
  return absl::NotFoundError(
      absl::StrCat("model: ", DescribeJson(asked), " is not served here; \"", served, "\" is"));
}

HttpReply UnknownModel(const absl::Status& status) {
  return HttpError(404, std::string(status.message()), "model", "model_not_found");
}

template <typename T>
void MoveBack(std::vector<T>&& from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

// Adds a piece to the choice of its index.
void Merge(CompletionChoice piece, std::vector<CompletionChoice>* choices) {
  const auto at = static_cast<size_t>(piece.index);
  for (size_t i = choices->size(); i <= at; ++i) {
    choices->emplace_back().index = static_cast<int32_t>(i);
  }
  CompletionChoice& choice = (*choices)[at];
  choice.text += piece.text;
  if (piece.finish_reason) choice.finish_reason = piece.finish_reason;
  if (!piece.logprobs) return;
  if (!choice.logprobs) choice.logprobs.emplace();
  MoveBack(std::move(piece.logprobs->tokens), &choice.logprobs->tokens);
  MoveBack(std::move(piece.logprobs->token_logprobs), &choice.logprobs->token_logprobs);
  MoveBack(std::move(piece.logprobs->top_logprobs), &choice.logprobs->top_logprobs);
  MoveBack(std::move(piece.logprobs->text_offset), &choice.logprobs->text_offset);
}

}  // namespace

// One completion from its acceptance on; ends the generation where it is given up.
class OpenAi::Completion {
 public:
  using Event = BlockingGeneration::Event;

  Completion(OpenAi* api, const HttpCall& call) : api_(api), socket_(call.socket) {
    api_->generations_.fetch_add(1);
  }
  ~Completion() {
    generation_.reset();
    api_->generations_.fetch_sub(1);
  }
  Completion(const Completion&) = delete;
  Completion& operator=(const Completion&) = delete;

  absl::Status Start(CompletionRequest request) {
    request_ = std::move(request);
    if (const auto* text = std::get_if<std::string>(&request_.generation.prompt)) {
      prompt_text_ = *text;
    }
    auto generation = BlockingGeneration::Start(api_->context_, request_.generation);
    if (!generation.ok()) return generation.status();
    generation_ = *std::move(generation);
    request_.generation.caller.reset();  // the generation's to end
    head_ = {.id = absl::StrCat("cmpl-", generation_->id()),
             .created = Now(),
             .model = api_->context_.engine->model().name};
    return absl::OkStatus();
  }

  bool streams() const { return request_.stream; }
  Event Next() { return generation_->Next(socket_); }

  HttpReply Whole() {
    std::vector<CompletionChoice> choices;
    for (;;) {
      const Event event = Next();
      if (const auto* status = std::get_if<absl::Status>(&event)) {
        if (!status->ok()) return StatusReply(*status);
        return {.body = CompletionJson(head_, choices, usage_)};
      }
      if (std::optional<CompletionChoice> piece = Take(event)) Merge(*std::move(piece), &choices);
    }
  }

  // From `event`, the first, on. An error after it is an event of its own; [DONE] is always last.
  void Stream(Event event, const HttpReply::Write& write) {
    for (; !std::holds_alternative<absl::Status>(event); event = Next()) {
      const std::optional<CompletionChoice> piece = Take(event);
      if (!piece || (piece->text.empty() && !piece->logprobs && !piece->finish_reason)) continue;
      if (write(ServerSentEvent(CompletionJson(head_, {*piece}, std::nullopt)))) continue;
      generation_->Cancel();
      return;
    }
    const auto& status = std::get<absl::Status>(event);
    std::string last;
    if (!status.ok()) {
      last = ServerSentEvent(StatusReply(status).body);
    } else if (request_.include_usage) {
      last = ServerSentEvent(CompletionJson(head_, {}, usage_));
    }
    write(absl::StrCat(last, ServerSentEvent("[DONE]")));
  }

 private:
  // One of the n choices as it comes, the first time after what is echoed.
  struct Sequence {
    Sequence(const Tokenizer* tokenizer, bool echo) : logprobs(tokenizer, /*at_start=*/echo) {}
    LogprobsWriter logprobs;
    bool begun = false;
  };

  // What the event adds to a choice; nothing if it is about the prompt.
  std::optional<CompletionChoice> Take(const Event& event) {
    if (const auto* started = std::get_if<GenerationStarted>(&event)) {
      prompt_ids_ = started->prompt_token_ids;
      usage_.prompt_tokens = static_cast<int32_t>(prompt_ids_.size());
      usage_.cached_tokens = started->cached_tokens;
    } else if (const auto* logprobs = std::get_if<BlockingGeneration::PromptLogprobs>(&event)) {
      prompt_logprobs_ = *logprobs;
    } else if (const auto* delta = std::get_if<GenerationDelta>(&event)) {
      CompletionChoice piece = Begin(delta->index);
      piece.text += delta->text;
      for (size_t i = 0; i < delta->logprobs.size(); ++i) {
        if (!piece.logprobs) piece.logprobs.emplace();
        SequenceAt(delta->index)
            .logprobs.Append(delta->token_ids[i], &delta->logprobs[i], &*piece.logprobs);
      }
      return piece;
    } else if (const auto* finished = std::get_if<GenerationFinished>(&event)) {
      CompletionChoice piece = Begin(finished->index);
      piece.finish_reason = finished->reason;
      usage_.completion_tokens += finished->metrics.generated_tokens;
      return piece;
    }
    return std::nullopt;
  }

  Sequence& SequenceAt(int32_t index) {
    const auto at = static_cast<size_t>(index);
    if (at >= sequences_.size()) {
      sequences_.resize(at + 1, Sequence(api_->context_.tokenizer, request_.echo));
    }
    return sequences_[at];
  }

  CompletionChoice Begin(int32_t index) {
    CompletionChoice piece;
    piece.index = index;
    Sequence& sequence = SequenceAt(index);
    if (std::exchange(sequence.begun, true) || !request_.echo) return piece;
    piece.text = PromptText(prompt_ids_);
    if (!request_.generation.prompt_logprobs) return piece;
    piece.logprobs.emplace();
    for (size_t i = 0; i < prompt_ids_.size(); ++i) {
      const bool known = i > 0 && i <= prompt_logprobs_.size();
      sequence.logprobs.Append(prompt_ids_[i], known ? &prompt_logprobs_[i - 1] : nullptr,
                               &*piece.logprobs);
    }
    return piece;
  }

  // As it was given; of token ids, their text.
  std::string PromptText(const std::vector<int32_t>& ids) const {
    if (!prompt_text_.empty()) return prompt_text_;
    auto bytes = api_->context_.tokenizer->Decode(ids, /*skip_special=*/true);
    std::string text;
    if (bytes.ok()) TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
    return text;
  }

  OpenAi* const api_;
  const int socket_;
  CompletionRequest request_;
  std::string prompt_text_;  // empty: the prompt came as token ids
  CompletionHead head_;
  CompletionUsage usage_;
  std::vector<int32_t> prompt_ids_;
  BlockingGeneration::PromptLogprobs prompt_logprobs_;
  std::vector<Sequence> sequences_;  // by index, as far as they have been heard of
  std::unique_ptr<BlockingGeneration> generation_;
};

OpenAi::OpenAi(const GenerationContext& context, int max_generations)
    : context_(context), max_generations_(max_generations), created_(Now()) {}

HttpReply OpenAi::Models() const {
  const engine::ModelInfo& model = context_.engine->model();
  return {.body = ModelListJson(model.name, created_, model.max_positions)};
}

HttpReply OpenAi::Model(const std::string& name) const {
  const engine::ModelInfo& model = context_.engine->model();
  if (name != model.name) return UnknownModel(NotServed(name, model.name));
  return {.body = ModelJson(model.name, created_, model.max_positions)};
}

absl::Status OpenAi::Begin(const HttpCall& call, std::shared_ptr<Caller> caller,
                           std::shared_ptr<Completion>* completion) {
  auto request = ParseCompletion(call.body);
  if (!request.ok()) return request.status();
  const std::string& name = context_.engine->model().name;
  if (!request->model.empty() && request->model != name) {
    return NotServed(request->model, name);
  }
  request->generation.request_id = call.request_id;
  request->generation.caller = std::move(caller);
  *completion = std::make_shared<Completion>(this, call);
  if (const int running = generations_.load(); running > max_generations_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "http: ", max_generations_, " completions run or wait over HTTP, which is the limit"));
  }
  return (*completion)->Start(*std::move(request));
}

HttpReply OpenAi::Complete(const HttpCall& call) {
  std::shared_ptr<Caller> caller;
  std::shared_ptr<Completion> completion;
  absl::Status status = AdmitCaller(context_, call.authorization, &caller);
  if (status.ok()) status = Begin(call, caller, &completion);
  if (!status.ok()) {
    RecordRefusal(context_, call.request_id, status, caller.get());
    return absl::IsNotFound(status) ? UnknownModel(status) : StatusReply(status);
  }
  if (!completion->streams()) return completion->Whole();
  // Until it is known that the request will run, an error can still be the answer's status.
  Completion::Event first = completion->Next();
  if (const auto* ended = std::get_if<absl::Status>(&first); ended && !ended->ok()) {
    return StatusReply(*ended);
  }
  return {.content_type = "text/event-stream",
          .stream = [completion, first = std::move(first)](const HttpReply::Write& write) {
            completion->Stream(first, write);
          }};
}

}  // namespace strata::server
