#include "server/openai_json.h"

#include <chrono>
#include <string>
#include <utility>

#include "engine/retry_after.h"
#include "nlohmann/json.hpp"
#include "server/error_field.h"

namespace strata::server {
namespace {

using nlohmann::json;

std::string Line(const json& value) {
  return value.dump(-1, ' ', /*ensure_ascii=*/false, json::error_handler_t::replace);
}

json LogprobsJson(const std::optional<CompletionLogprobs>& logprobs) {
  if (!logprobs) return nullptr;
  json token_logprobs = json::array();
  for (const auto& value : logprobs->token_logprobs) {
    token_logprobs.push_back(value ? json(*value) : json());
  }
  json top_logprobs = json::array();
  for (size_t i = 0; i < logprobs->top_logprobs.size(); ++i) {
    json top;  // null where the token has none
    for (const auto& [text, logprob] : logprobs->top_logprobs[i]) top[text] = logprob;
    top_logprobs.push_back(std::move(top));
  }
  return {{"tokens", logprobs->tokens},
          {"token_logprobs", std::move(token_logprobs)},
          {"top_logprobs", std::move(top_logprobs)},
          {"text_offset", logprobs->text_offset}};
}

json ModelEntry(const std::string& model, int64_t created, int32_t max_positions) {
  return {{"id", model},
          {"object", "model"},
          {"created", created},
          {"owned_by", "strata"},
          {"max_model_len", max_positions}};
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

std::string CompletionJson(const CompletionHead& head, const std::vector<CompletionChoice>& choices,
                           const std::optional<CompletionUsage>& usage) {
  json list = json::array();
  for (const CompletionChoice& choice : choices) {
    list.push_back(
        {{"index", choice.index},
         {"text", choice.text},
         {"logprobs", LogprobsJson(choice.logprobs)},
         {"finish_reason",
          choice.finish_reason ? json(engine::FinishReasonName(*choice.finish_reason)) : json()}});
  }
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
  return Line(document);
}

std::string ModelJson(const std::string& model, int64_t created, int32_t max_positions) {
  return Line(ModelEntry(model, created, max_positions));
}

std::string ModelListJson(const std::string& model, int64_t created, int32_t max_positions) {
  const json entry = ModelEntry(model, created, max_positions);
  return Line({{"object", "list"}, {"data", json::array({entry})}});
}

HttpReply StatusReply(const absl::Status& status) {
  const std::string message(status.message());
  const int code = HttpStatusOf(status.code());
  HttpReply reply = HttpError(code, message, code == 400 ? FieldOf(message) : "",
                              code == 401 ? "invalid_api_key" : "");
  if (const auto delay = engine::RetryAfterOf(status)) {
    const auto seconds = std::chrono::ceil<std::chrono::seconds>(*delay);
    reply.headers = {{"Retry-After", std::to_string(seconds.count())}};
  }
  return reply;
}

}  // namespace strata::server
