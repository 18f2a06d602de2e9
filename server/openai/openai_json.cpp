#include "server/openai/openai_json.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "kvcache/base/error_details.h"
#include "nlohmann/json.hpp"
#include "server/base/json.h"

namespace strata::server {
namespace {

using nlohmann::json;

// JSON has no infinity; vLLM's number stands for it.
double Finite(float logprob) { return std::max(double{logprob}, -9999.0); }

json LogprobsJson(const std::optional<CompletionLogprobs>& logprobs) {
  if (!logprobs) return nullptr;
  json token_logprobs = json::array();
  for (const auto& value : logprobs->token_logprobs) {
    token_logprobs.push_back(value ? json(Finite(*value)) : json());
  }
  json top_logprobs = json::array();
  for (size_t i = 0; i < logprobs->top_logprobs.size(); ++i) {
    json top;  // null if the token has none
    // The first of several equal texts stays: the likeliest.
    for (const auto& [text, logprob] : logprobs->top_logprobs[i])
      top.emplace(text, Finite(logprob));
    top_logprobs.push_back(std::move(top));
  }
  return {{"tokens", logprobs->tokens},
          {"token_logprobs", std::move(token_logprobs)},
          {"top_logprobs", std::move(top_logprobs)},
          {"text_offset", logprobs->text_offset}};
}

json PromptLogprobsJson(const CompletionPromptLogprobs& tokens) {
  json list = json::array();
  for (const std::vector<PromptToken>& token : tokens) {
    json& entry = list.emplace_back();  // null if the token has none
    for (const auto& [id, logprob, rank, text] : token) {
      entry.emplace(std::to_string(id),
                    json{{"logprob", Finite(logprob)}, {"rank", rank}, {"decoded_token", text}});
    }
  }
  return list;
}

json StopReasonJson(const CompletionChoice& choice) {
  if (choice.stop_token) return *choice.stop_token;
  return choice.stop_string.empty() ? json() : json(choice.stop_string);
}

json ChoiceJson(const CompletionChoice& choice) {
  json object = {
      {"index", choice.index},
      {"text", choice.text},
      {"logprobs", LogprobsJson(choice.logprobs)},
      {"finish_reason",
       choice.finish_reason ? json(engine::FinishReasonName(*choice.finish_reason)) : json()},
      {"stop_reason", StopReasonJson(choice)}};
  if (choice.token_ids) object["token_ids"] = *choice.token_ids;
  if (choice.prompt_token_ids) object["prompt_token_ids"] = *choice.prompt_token_ids;
  if (choice.prompt_logprobs) {
    object["prompt_logprobs"] = PromptLogprobsJson(*choice.prompt_logprobs);
  }
  return object;
}

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

}  // namespace

CompletionPromptLogprobs PromptLogprobsOf(const Tokenizer& tokenizer, std::span<const int32_t> ids,
                                          std::span<const engine::TokenLogprobs> logprobs,
                                          int32_t top) {
  LogprobsWriter shown(&tokenizer, {});
  shown.Prime(ids);  // tokens within a text keep their spaces
  CompletionPromptLogprobs tokens(ids.size());
  for (size_t i = 1; i < ids.size() && i <= logprobs.size(); ++i) {
    const engine::TokenLogprobs& own = logprobs[i - 1];
    tokens[i].push_back({ids[i], own.logprob, own.rank, shown.TextOf(ids[i])});
    const size_t count = std::min(own.top.size(), static_cast<size_t>(top));
    for (size_t place = 0; place < count; ++place) {
      const engine::TokenLogprob& likely = own.top[place];
      if (likely.id == ids[i]) continue;
      tokens[i].push_back(
          {likely.id, likely.logprob, static_cast<int32_t>(place) + 1, shown.TextOf(likely.id)});
    }
  }
  return tokens;
}

std::string CompletionJson(const CompletionHead& head, const std::vector<CompletionChoice>& choices,
                           const std::optional<CompletionUsage>& usage) {
  json list = json::array();
  for (const CompletionChoice& choice : choices) list.push_back(ChoiceJson(choice));
  json document = {{"id", head.id},
                   {"object", "text_completion"},
                   {"created", head.created},
                   {"model", head.model},
                   {"choices", std::move(list)}};
  if (usage) {
    document["usage"] = {{"prompt_tokens", usage->prompt_tokens},
                         {"completion_tokens", usage->completion_tokens},
                         {"total_tokens", usage->prompt_tokens + usage->completion_tokens},
                         {"prompt_tokens_details", {{"cached_tokens", usage->cached_tokens}}}};
  }
  return JsonLine(document);
}

HttpReply StatusReply(const absl::Status& status) {
  const std::string message(status.message());
  const int code = HttpStatusOf(status.code());
  const bool names_field = code == 400 || code == 404;
  const std::string error_code = code == 401   ? "invalid_api_key"
                                 : code == 429 ? "rate_limit_exceeded"
                                               : ErrorCodeOf(status);
  HttpReply reply = HttpError(code, message, names_field ? FieldOf(status) : "", error_code);
  if (const auto delay = RetryAfterOf(status)) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(*delay);
    reply.headers = {{"Retry-After", std::to_string(seconds.count())}};
  }
  return reply;
}

}  // namespace strata::server
