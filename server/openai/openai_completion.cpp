#include "server/openai/openai_completion.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

std::string ServerSentEvent(const std::string& data) {
  return absl::StrCat("data: ", data, "\n\n");
}

template <typename T>
void MoveBack(std::vector<T>&& from, std::vector<T>* to) {
  to->insert(to->end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void Merge(CompletionLogprobs piece, CompletionLogprobs* logprobs) {
  MoveBack(std::move(piece.tokens), &logprobs->tokens);
  MoveBack(std::move(piece.token_logprobs), &logprobs->token_logprobs);
  MoveBack(std::move(piece.top_logprobs), &logprobs->top_logprobs);
  MoveBack(std::move(piece.text_offset), &logprobs->text_offset);
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
  if (piece.stop_token) choice.stop_token = piece.stop_token;
  if (!piece.stop_string.empty()) choice.stop_string = std::move(piece.stop_string);
  if (piece.prompt_token_ids) choice.prompt_token_ids = std::move(piece.prompt_token_ids);
  if (piece.prompt_logprobs) choice.prompt_logprobs = std::move(piece.prompt_logprobs);
  if (piece.token_ids) {
    if (!choice.token_ids) choice.token_ids.emplace();
    MoveBack(*std::move(piece.token_ids), &*choice.token_ids);
  }
  if (piece.logprobs) {
    if (!choice.logprobs) choice.logprobs.emplace();
    Merge(*std::move(piece.logprobs), &*choice.logprobs);
  }
}

bool SaysSomething(const CompletionChoice& piece) {
  return !piece.text.empty() || piece.finish_reason || piece.prompt_logprobs ||
         piece.prompt_token_ids || (piece.logprobs && !piece.logprobs->tokens.empty()) ||
         (piece.token_ids && !piece.token_ids->empty());
}

}  // namespace

absl::StatusOr<std::unique_ptr<OpenAiCompletion>> OpenAiCompletion::Start(
    const GenerationContext& context, CompletionRequest request, CompletionHead head, int socket) {
  std::unique_ptr<OpenAiCompletion> completion(
      new OpenAiCompletion(context, std::move(head), socket));
  completion->request_ = std::move(request);
  ASSIGN_OR_RETURN(auto generation, BlockingGeneration::Start(context, completion->SplitPrompts()));
  completion->generation_ = std::move(generation);
  return completion;
}

// Makes a generation request for each prompt. Only an echo needs to keep the text.
std::vector<GenerationRequest> OpenAiCompletion::SplitPrompts() {
  std::vector<GenerationRequest> requests;
  prompts_.resize(request_.prompts.size());
  const bool keeps_text = request_.echo && !request_.generation.truncate_prompt_tokens;
  for (size_t i = 0; i < request_.prompts.size(); ++i) {
    GenerationRequest& request = requests.emplace_back(request_.generation);
    if (auto* ids = std::get_if<std::vector<int32_t>>(&request_.prompts[i])) {
      request.prompt = std::move(*ids);
      continue;
    }
    auto& text = std::get<std::string>(request_.prompts[i]);
    if (keeps_text) prompts_[i].text = text;
    request.prompt = std::move(text);
  }
  request_.prompts.clear();
  request_.generation.caller.reset();  // the generations end the caller's request
  return requests;
}

HttpReply OpenAiCompletion::Whole() {
  std::vector<CompletionChoice> choices;
  for (;;) {
    Event event = Next();
    if (const auto* status = std::get_if<absl::Status>(&event.content)) {
      if (!status->ok()) return StatusReply(*status);
      return {.body = CompletionJson(head_, choices, usage_)};
    }
    if (auto piece = Take(std::move(event))) Merge(*std::move(piece), &choices);
  }
}

void OpenAiCompletion::Stream(Event event, const HttpReply::Write& write) {
  for (; !std::holds_alternative<absl::Status>(event.content); event = Next()) {
    const std::optional<CompletionChoice> piece = Take(std::move(event));
    if (!piece || !SaysSomething(*piece)) continue;
    if (write(ServerSentEvent(CompletionJson(head_, {*piece}, ChunkUsage())))) continue;
    generation_->Cancel();
    return;
  }
  const auto& status = std::get<absl::Status>(event.content);
  std::string last;
  if (!status.ok()) {
    last = ServerSentEvent(StatusReply(status).body);
  } else if (request_.include_usage) {
    last = ServerSentEvent(CompletionJson(head_, {}, usage_));
  }
  write(absl::StrCat(last, ServerSentEvent("[DONE]")));
}

// The usage so far.
std::optional<CompletionUsage> OpenAiCompletion::ChunkUsage() const {
  return request_.continuous_usage ? std::optional(usage_) : std::nullopt;
}

// The piece that the event adds to a choice; none if it is about the prompt.
std::optional<CompletionChoice> OpenAiCompletion::Take(Event event) {
  Prompt& prompt = prompts_[event.prompt];
  if (auto* started = std::get_if<GenerationStarted>(&event.content)) {
    prompt.ids = std::move(started->prompt_token_ids);
    usage_.prompt_tokens += static_cast<int32_t>(prompt.ids.size());
    usage_.cached_tokens += started->cached_tokens;
  } else if (auto* logprobs = std::get_if<BlockingGeneration::PromptLogprobs>(&event.content)) {
    prompt.logprobs = std::move(*logprobs);
  } else if (const auto* delta = std::get_if<GenerationDelta>(&event.content)) {
    return TakeDelta(event.prompt, *delta);
  } else if (const auto* finished = std::get_if<GenerationFinished>(&event.content)) {
    return TakeFinished(event.prompt, *finished);
  }
  return std::nullopt;
}

CompletionChoice OpenAiCompletion::TakeDelta(size_t prompt, const GenerationDelta& delta) {
  CompletionChoice piece = Begin(prompt, delta.index);
  piece.text += delta.text;
  if (piece.token_ids) *piece.token_ids = delta.token_ids;
  usage_.completion_tokens += static_cast<int32_t>(delta.token_ids.size());
  if (!piece.logprobs) return piece;
  LogprobsWriter& writer = *sequences_[static_cast<size_t>(piece.index)].writer;
  for (size_t i = 0; i < delta.logprobs.size(); ++i) {
    writer.Append(delta.token_ids[i], &delta.logprobs[i], *request_.generation.sampling.logprobs,
                  &*piece.logprobs);
  }
  return piece;
}

CompletionChoice OpenAiCompletion::TakeFinished(size_t prompt, const GenerationFinished& finished) {
  CompletionChoice piece = Begin(prompt, finished.index);
  piece.finish_reason = finished.reason;
  piece.stop_string = finished.stop_string;
  if (!finished.end_token) return piece;
  const engine::TokenEvent& end = *finished.end_token;
  if (!EndsByItself(end.token)) piece.stop_token = end.token;
  if (piece.token_ids) piece.token_ids->push_back(end.token);
  if (piece.logprobs && end.logprobs) {
    sequences_[static_cast<size_t>(piece.index)].writer->AppendEnd(
        end.token, *end.logprobs, *request_.generation.sampling.logprobs, &*piece.logprobs);
  }
  return piece;
}

// Whether `token` is an end-of-sequence id of the model, not one of the request's stop ids.
bool OpenAiCompletion::EndsByItself(int32_t token) const {
  const std::vector<int32_t>& ids = context_.engine->model().eos_ids;
  return !request_.generation.sampling.ignore_eos && std::ranges::find(ids, token) != ids.end();
}

// Begins a piece of a choice; the first piece includes the fields about its prompt.
CompletionChoice OpenAiCompletion::Begin(size_t number, int32_t index) {
  const Prompt& prompt = prompts_[number];
  CompletionChoice piece;
  piece.index = static_cast<int32_t>(number) * request_.generation.n + index;
  if (request_.generation.sampling.logprobs) piece.logprobs.emplace();
  if (request_.return_token_ids) piece.token_ids.emplace();
  const auto at = static_cast<size_t>(piece.index);
  if (at >= sequences_.size()) sequences_.resize(at + 1);
  Sequence& sequence = sequences_[at];
  if (std::exchange(sequence.begun, true)) return piece;

  if (request_.echo) piece.text = PromptText(prompt);
  if (request_.return_token_ids) piece.prompt_token_ids = prompt.ids;
  const TokenForm form = {.skip_special = request_.generation.skip_special_tokens,
                          .as_ids = request_.tokens_as_ids};
  if (piece.logprobs) {
    sequence.writer.emplace(context_.tokenizer, form);
    BeginLogprobs(prompt, &*sequence.writer, &piece);
  }
  if (request_.prompt_logprobs) {
    piece.prompt_logprobs = PromptLogprobsOf(*context_.tokenizer, prompt.ids, prompt.logprobs,
                                             *request_.prompt_logprobs);
  }
  return piece;
}

void OpenAiCompletion::BeginLogprobs(const Prompt& prompt, LogprobsWriter* writer,
                                     CompletionChoice* choice) const {
  if (!request_.echo) {
    writer->Prime(prompt.ids);
    return;
  }
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    const bool known = i > 0 && i <= prompt.logprobs.size();
    writer->Append(prompt.ids[i], known ? &prompt.logprobs[i - 1] : nullptr,
                   *request_.generation.sampling.logprobs, &*choice->logprobs);
  }
  writer->set_offset(CountCharacters(choice->text));
}

// The prompt's text as given; for token ids their text, without a character that the output
// completes.
std::string OpenAiCompletion::PromptText(const Prompt& prompt) const {
  if (!prompt.text.empty()) return prompt.text;
  auto bytes = context_.tokenizer->Decode(prompt.ids, request_.generation.skip_special_tokens);
  std::string text;
  if (bytes.ok()) TakeValidUtf8(/*at_end=*/false, &*bytes, &text);
  return text;
}

}  // namespace strata::server
