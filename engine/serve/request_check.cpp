#include "engine/serve/request_check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "kernels/status_macros.h"
#include "kvcache/base/error_details.h"
#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

constexpr int32_t kMaxPriority = 100;
constexpr int32_t kMaxLogprobs = 20;
constexpr size_t kMaxBiases = 1024;
constexpr size_t kMaxStopIds = 1024;
constexpr size_t kMaxBadWords = 2048;  // token sequences
constexpr size_t kMaxSaltBytes = 256;
// Limits of a request's whole answer: a slow reader may get all of it in one message, and gRPC's
// clients take 4 MiB.
constexpr int32_t kMaxProbabilities = 900000;
constexpr int64_t kMaxPromptLogprobs = 250000;  // some 16 bytes each, in one message as well
constexpr float kMaxRepetitionPenalty = 100;
constexpr float kMaxPenalty = 2;

template <typename Value, typename... Limit>
absl::Status Refuse(std::string_view field, const Value& value, const Limit&... limit) {
  return InvalidField(absl::string_view(field.data(), field.size()), value, " is not ", limit...);
}

// Comparisons are written so that NaN fails them.
template <typename Value>
absl::Status CheckRange(std::string_view field, Value value, Value low, Value high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Refuse(field, value, "in ", low, "..", high);
}

absl::Status CheckLogprobs(std::string_view field, std::optional<int32_t> count) {
  return CheckRange(field, count.value_or(0), 0, kMaxLogprobs);
}

absl::Status CheckIds(std::string_view field, std::span<const int32_t> ids, int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return Refuse(field, Concat("id ", ids[i], " at ", i), "in 0..", vocab_size - 1);
  }
  return absl::OkStatus();
}

absl::Status CheckBiases(std::span<const LogitBias> biases, int32_t vocab_size) {
  if (biases.size() > kMaxBiases) {
    return Refuse("logit_bias", Concat(biases.size(), " entries"), "at most ", kMaxBiases);
  }
  for (size_t i = 0; i < biases.size(); ++i) {
    const auto& [id, bias] = biases[i];
    if (id < 0 || id >= vocab_size) {
      return Refuse("logit_bias", Concat("id ", id, " at ", i), "in 0..", vocab_size - 1);
    }
    if (std::isfinite(bias)) continue;
    return Refuse("logit_bias", Concat(bias, " for id ", id), "a finite number");
  }
  return absl::OkStatus();
}

// Checks temperature and the cuts of the distribution.
absl::Status CheckDraw(const SamplingParams& params) {
  if (!(std::isfinite(params.temperature) && params.temperature >= 0)) {
    return Refuse("temperature", params.temperature, "a finite number of at least 0");
  }
  if (params.top_k < 0) return Refuse("top_k", params.top_k, "at least 0");
  RETURN_IF_ERROR(CheckRange("top_p", params.top_p, 0.0F, 1.0F));
  return CheckRange("min_p", params.min_p, 0.0F, 1.0F);
}

absl::Status CheckPenalties(const SamplingParams& params) {
  const float repetition = params.repetition_penalty;
  if (!(repetition > 0 && repetition <= kMaxRepetitionPenalty)) {
    return Refuse("repetition_penalty", repetition, "above 0 and at most ", kMaxRepetitionPenalty);
  }
  RETURN_IF_ERROR(
      CheckRange("frequency_penalty", params.frequency_penalty, -kMaxPenalty, kMaxPenalty));
  return CheckRange("presence_penalty", params.presence_penalty, -kMaxPenalty, kMaxPenalty);
}

absl::Status CheckLengths(const SamplingParams& params) {
  if (params.max_tokens < 0) return Refuse("max_tokens", params.max_tokens, "at least 0");
  if (params.min_tokens >= 0 && params.min_tokens <= params.max_tokens) return absl::OkStatus();
  return Refuse("min_tokens", params.min_tokens, "in 0..", params.max_tokens, ", max_tokens");
}

// Checks the allowed ids, and the token sequences that must not appear.
absl::Status CheckVocabulary(const SamplingParams& params, const ModelInfo& model) {
  const std::vector<int32_t>& allowed = params.allowed_ids;
  RETURN_IF_ERROR(CheckIds("allowed_token_ids", allowed, model.vocab_size));
  const auto ends = [&](int32_t id) {
    return (!params.ignore_eos && std::ranges::find(model.eos_ids, id) != model.eos_ids.end()) ||
           std::ranges::find(params.stop_ids, id) != params.stop_ids.end();
  };
  if (params.min_tokens > 0 && !allowed.empty() && std::ranges::all_of(allowed, ends)) {
    return InvalidField("allowed_token_ids", "all of them end the output, and min_tokens is ",
                        params.min_tokens);
  }
  if (params.bad_words.size() > kMaxBadWords) {
    return Refuse("bad_words", Concat(params.bad_words.size(), " token sequences"), "at most ",
                  kMaxBadWords);
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    if (word.empty()) return InvalidField("bad_words", "one is empty");
    RETURN_IF_ERROR(CheckIds("bad_words", word, model.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingParams& params, const ModelInfo& model) {
  const int32_t vocab_size = model.vocab_size;
  RETURN_IF_ERROR(CheckLengths(params));
  RETURN_IF_ERROR(CheckDraw(params));
  RETURN_IF_ERROR(CheckPenalties(params));
  RETURN_IF_ERROR(CheckBiases(params.logit_bias, vocab_size));
  if (params.stop_ids.size() > kMaxStopIds) {
    return Refuse("stop_token_ids", Concat(params.stop_ids.size(), " ids"), "at most ",
                  kMaxStopIds);
  }
  RETURN_IF_ERROR(CheckIds("stop_token_ids", params.stop_ids, vocab_size));
  RETURN_IF_ERROR(CheckVocabulary(params, model));
  return CheckLogprobs("logprobs", params.logprobs);
}

absl::Status CheckAttention(const Request& request, const ModelInfo& model) {
  const size_t heads = request.attention.size();
  const auto all =
      static_cast<size_t>(model.plan.num_layers) * static_cast<size_t>(model.plan.num_query_heads);
  if (heads > all) {
    return Refuse("attention", Concat(heads, " heads"), "at most ", all, ", the model's");
  }
  for (size_t i = 0; i < heads; ++i) {
    const auto& [layer, head] = request.attention[i];
    if (layer < 0 || layer >= model.plan.num_layers) {
      return Refuse("attention", Concat("layer ", layer, " at ", i), "in 0..",
                    model.plan.num_layers - 1);
    }
    if (head < 0 || head >= model.plan.num_query_heads) {
      return Refuse("attention", Concat("head ", head, " at ", i), "in 0..",
                    model.plan.num_query_heads - 1);
    }
  }
  const double tokens = static_cast<double>(request.sampling.max_tokens) * request.n;
  const auto longest = static_cast<int64_t>(request.prompt.size()) + request.sampling.max_tokens;
  if (static_cast<double>(heads) * tokens * static_cast<double>(longest) <= kMaxProbabilities) {
    return absl::OkStatus();
  }
  return InvalidField("attention", heads, " heads over up to ", longest, " positions for ", tokens,
                      " tokens are over the limit of ", kMaxProbabilities,
                      " probabilities a request");
}

// Number of log-probabilities of prompt tokens, including the likeliest ones.
int64_t PromptLogprobs(const Request& request) {
  return request.prompt_logprobs ? std::ssize(request.prompt) * (1 + *request.prompt_logprobs) : 0;
}

absl::Status CheckServing(const Request& request) {
  RETURN_IF_ERROR(CheckRange("n", request.n, 1, kMaxSequences));
  auto status = CheckRange("priority", request.priority, -kMaxPriority, kMaxPriority);
  if (!status.ok()) return status;
  if (request.cache_salt.size() > kMaxSaltBytes) {
    return Refuse("cache_salt", Concat(request.cache_salt.size(), " bytes"), "at most ",
                  kMaxSaltBytes);
  }
  status = CheckLogprobs("prompt_logprobs", request.prompt_logprobs);
  if (!status.ok() || !request.prompt_logprobs) return status;
  if (PromptLogprobs(request) <= kMaxPromptLogprobs) return absl::OkStatus();
  return InvalidField("prompt_logprobs", request.prompt.size(), " tokens with ",
                      *request.prompt_logprobs, " others each are over the limit of ",
                      kMaxPromptLogprobs, " a request");
}

// Checks that prompt and output of one sequence fit the model's positions and the cache.
absl::Status CheckFit(const Request& request, const ModelInfo& model) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int32_t max_tokens = request.sampling.max_tokens;
  const auto over = [&](std::string_view what, int64_t limit) {
    if (prompt > limit || (prompt == limit && max_tokens > 0)) {
      return InvalidField("prompt", prompt, " tokens leave no room for output in ", what, ", ",
                          limit);
    }
    return InvalidField("max_tokens", max_tokens, " after a prompt of ", prompt, " is over ", what,
                        ", ", limit);
  };
  if (prompt + max_tokens > model.max_positions) {
    return over("the model's positions", model.max_positions);
  }
  if (MostCached(prompt, max_tokens) > model.cache_tokens) {
    return over("the tokens that fit the cache", model.cache_tokens);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const Request& request, const ModelInfo& model) {
  if (request.prompt.empty()) return InvalidField("prompt", "0 tokens is not at least 1");
  RETURN_IF_ERROR(CheckIds("prompt", request.prompt, model.vocab_size));
  RETURN_IF_ERROR(CheckSampling(request.sampling, model));
  RETURN_IF_ERROR(CheckServing(request));
  RETURN_IF_ERROR(CheckAttention(request, model));
  return WithErrorCode(CheckFit(request, model), kContextLengthExceeded);
}

absl::Status RequestTotals::Add(const Request& request) {
  ++requests_;
  sequences_ += request.n;
  if (sequences_ > kMaxSequences) {
    return InvalidField("prompt", requests_, " prompts with n = ", request.n,
                        " are over the limit of ", kMaxSequences, " sequences a request");
  }
  prompt_logprobs_ += PromptLogprobs(request);
  if (prompt_logprobs_ <= kMaxPromptLogprobs) return absl::OkStatus();
  return InvalidField("prompt_logprobs", prompt_logprobs_, " of ", requests_,
                      " prompts are over the limit of ", kMaxPromptLogprobs, " a request");
}

// Scheduler::WorstCaseBlocks and WorstCaseScoreBlocks, solved for max_tokens.
int64_t MostTokens(const ModelInfo& model, int64_t prompt_tokens, int32_t n) {
  const int64_t blocks = model.cache_tokens / model.block_tokens;
  const int64_t shared = prompt_tokens / model.block_tokens;
  int64_t of_each = shared + (blocks - shared) / n;
  if (model.plan.stores_scores) of_each = std::min(of_each, blocks / n);
  // The last generated token gets no cache entry.
  const int64_t in_cache = std::min(of_each * model.block_tokens, model.cache_tokens) + 1;
  return std::min<int64_t>(in_cache, model.max_positions) - prompt_tokens;
}

int32_t MostPromptTokens(const ModelInfo& model, int32_t max_tokens, int32_t n) {
  // One by one: with several sequences a longer prompt may leave more room, as they share its
  // blocks.
  int32_t prompt = model.max_positions;
  while (prompt > 1 && MostTokens(model, prompt, n) < max_tokens) --prompt;
  return prompt;
}

absl::Status NamePrompt(size_t number, const absl::Status& status) {
  constexpr absl::string_view kField = "prompt";
  if (FieldOf(status) != kField) return status;
  const absl::string_view rest = status.message().substr(kField.size());
  const std::string field = absl::StrCat(kField, "[", number, "]");
  absl::Status named(status.code(), absl::StrCat(field, rest));
  status.ForEachPayload([&named](absl::string_view type, const absl::Cord& payload) {
    named.SetPayload(type, payload);
  });
  return WithField(std::move(named), field);
}

}  // namespace strata::engine
