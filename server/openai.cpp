#include "server/openai.h"

#include <chrono>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/blocking_generation.h"
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
    head_ = {.id = absl::StrCat("cmpl-", generation_->id()),
             .created = Now(),
             .model = api_->context_.engine->model().name};
    return absl::OkStatus();
  }

  bool streams() const { return request_.stream; }
  Event Next() { return generation_->Next(socket_); }

  HttpReply Whole() {
    CompletionChoice choice;
    for (;;) {
      const Event event = Next();
      if (const auto* status = std::get_if<absl::Status>(&event)) {
        if (!status->ok()) return StatusReply(*status);
        return {.body = CompletionJson(head_, {choice}, usage_)};
      }
      Append(event, &choice);
    }
  }

  // From `event`, the first, on. An error after it is an event of its own; [DONE] is always last.
  void Stream(Event event, const HttpReply::Write& write) {
    for (; !std::holds_alternative<absl::Status>(event); event = Next()) {
      CompletionChoice choice;
      Append(event, &choice);
      if (choice.text.empty() && !choice.finish_reason) continue;
      if (write(ServerSentEvent(CompletionJson(head_, {choice}, std::nullopt)))) continue;
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
  void Append(const Event& event, CompletionChoice* choice) {
    if (const auto* started = std::get_if<GenerationStarted>(&event)) {
      usage_.prompt_tokens = static_cast<int32_t>(started->prompt_token_ids.size());
      usage_.cached_tokens = started->cached_tokens;
      if (request_.echo) choice->text += PromptText(started->prompt_token_ids);
    } else if (const auto* delta = std::get_if<GenerationDelta>(&event)) {
      choice->text += delta->text;
    } else if (const auto* finished = std::get_if<GenerationFinished>(&event)) {
      choice->finish_reason = finished->reason;
      usage_.completion_tokens += finished->metrics.generated_tokens;
    }
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
  std::unique_ptr<BlockingGeneration> generation_;
};

OpenAi::OpenAi(const GenerationContext& context, int max_generations)
    : context_(context), max_generations_(max_generations), created_(Now()) {}

HttpReply OpenAi::Models() const {
  const engine::ModelInfo& model = context_.engine->model();
  return {.body = ModelListJson(model.name, created_, model.max_positions)};
}

absl::Status OpenAi::Begin(const HttpCall& call, std::shared_ptr<Completion>* completion) {
  auto request = ParseCompletion(call.body);
  if (!request.ok()) return request.status();
  const std::string& name = context_.engine->model().name;
  if (!request->model.empty() && request->model != name) {
    return absl::NotFoundError(
        absl::StrCat("model: \"", request->model, "\" is not served here; \"", name, "\" is"));
  }
  request->generation.request_id = call.request_id;
  *completion = std::make_shared<Completion>(this, call);
  if (const int running = generations_.load(); running > max_generations_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "http: ", max_generations_, " completions run or wait over HTTP, which is the limit"));
  }
  return (*completion)->Start(*std::move(request));
}

HttpReply OpenAi::Complete(const HttpCall& call) {
  std::shared_ptr<Completion> completion;
  if (const absl::Status status = Begin(call, &completion); !status.ok()) {
    RecordRefusal(context_, call.request_id, status);
    HttpReply reply = StatusReply(status);
    if (absl::IsNotFound(status)) {
      reply = HttpError(404, std::string(status.message()), "model", "model_not_found");
    }
    return reply;
  }
  if (!completion->streams()) return completion->Whole();
  // Until it is known that the request will run, an error can still be the answer's status.
  Completion::Event first = completion->Next();
  if (const auto* status = std::get_if<absl::Status>(&first); status && !status->ok()) {
    return StatusReply(*status);
  }
  return {.content_type = "text/event-stream",
          .stream = [completion, first = std::move(first)](const HttpReply::Write& write) {
            completion->Stream(first, write);
          }};
}

}  // namespace strata::server
