#include "server/generation_request.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/request_check.h"

namespace strata::server {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;
constexpr double kMaxTimeLimitSeconds = 1e6;  // what a clock's ticks hold with room to spare

// Which a line of a log could be ended with.
bool IsControl(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

uint64_t DrawRandom() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::StatusOr<std::vector<int32_t>> TokenizePrompt(const Tokenizer& tokenizer,
                                                    const std::string& text) {
  if (text.empty()) {
    return absl::InvalidArgumentError("prompt: empty text; at least one character is needed");
  }
  auto ids = tokenizer.Encode(text, {.add_special_tokens = true, .parse_special = true});
  if (ids.ok()) return ids;
  return absl::Status(ids.status().code(),
                      absl::StrCat("prompt: ", std::string(ids.status().message())));
}

// The default, cut to what fits beside the prompt. What leaves no room for a token keeps 1, for the
// engine to refuse it with the limit.
int32_t DefaultMaxTokens(const GenerationRequest& request, const engine::ModelInfo& model,
                         size_t prompt_tokens) {
  const int64_t most = engine::MostTokens(model, static_cast<int64_t>(prompt_tokens),
                                          std::max(request.n.value_or(1), 1));
  return static_cast<int32_t>(std::clamp<int64_t>(most, 1, request.default_max_tokens));
}

engine::SamplingParams MakeSampling(GenerationRequest* request, const engine::ModelInfo& model,
                                    size_t prompt_tokens) {
  const engine::SamplingParams defaults;
  return {
      .temperature = request->temperature.value_or(defaults.temperature),
      .top_k = request->top_k.value_or(defaults.top_k),
      .top_p = request->top_p.value_or(defaults.top_p),
      .min_p = request->min_p.value_or(defaults.min_p),
      .repetition_penalty = request->repetition_penalty.value_or(defaults.repetition_penalty),
      .frequency_penalty = request->frequency_penalty.value_or(defaults.frequency_penalty),
      .presence_penalty = request->presence_penalty.value_or(defaults.presence_penalty),
      .logit_bias = std::move(request->logit_bias),
      .seed = request->seed ? *request->seed : DrawRandom(),
      .max_tokens = request->max_tokens ? *request->max_tokens
                                        : DefaultMaxTokens(*request, model, prompt_tokens),
      .min_tokens = request->min_tokens.value_or(defaults.min_tokens),
      .stop_ids = std::move(request->stop_token_ids),
      .ignore_eos = request->ignore_eos.value_or(defaults.ignore_eos),
      .logprobs = request->logprobs,
  };
}

absl::StatusOr<std::optional<engine::Request::Time>> TimeLimit(std::optional<double> seconds) {
  if (!seconds) return std::nullopt;
  if (!(*seconds > 0 && *seconds <= kMaxTimeLimitSeconds)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "time_limit_seconds: %g is not above 0 and at most %g", *seconds, kMaxTimeLimitSeconds));
  }
  using Clock = engine::Request::Time::clock;
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(*seconds));
}

}  // namespace

absl::StatusOr<engine::Request> MakeEngineRequest(GenerationRequest request,
                                                  const engine::ModelInfo& model,
                                                  const Tokenizer& tokenizer) {
  if (request.request_id.size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat("request_id: ", request.request_id.size(),
                                                   " bytes; at most ", kMaxRequestIdBytes));
  }
  if (const auto place = std::ranges::find_if(request.request_id, IsControl);
      place != request.request_id.end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("request_id: byte %d is the control character 0x%02x; it may hold none",
                        place - request.request_id.begin(), static_cast<unsigned char>(*place)));
  }
  auto time_limit = TimeLimit(request.time_limit_seconds);
  if (!time_limit.ok()) return time_limit.status();
  engine::Request work;
  if (const auto* text = std::get_if<std::string>(&request.prompt)) {
    auto ids = TokenizePrompt(tokenizer, *text);
    if (!ids.ok()) return ids.status();
    work.prompt = *std::move(ids);
  } else if (auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) {
    work.prompt = std::move(*ids);
  } else {
    return absl::InvalidArgumentError("prompt: none; give text or token_ids");
  }
  work.id = request.request_id.empty() ? absl::StrFormat("gen-%016x", DrawRandom())
                                       : std::move(request.request_id);
  work.sampling = MakeSampling(&request, model, work.prompt.size());
  work.n = request.n.value_or(work.n);
  work.priority = request.priority.value_or(work.priority);
  work.deadline = request.deadline;
  work.time_limit = *time_limit;
  work.prompt_logprobs = request.prompt_logprobs;
  work.attention = std::move(request.attention);
  work.bypass_prefix_cache = request.bypass_prefix_cache;
  work.cache_salt = std::move(request.cache_salt);
  return work;
}

}  // namespace strata::server
