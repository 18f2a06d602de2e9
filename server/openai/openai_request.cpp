#include "server/openai/openai_request.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/serve/request_check.h"
#include "kvcache/base/errors.h"
#include "nlohmann/json.hpp"
#include "server/base/json.h"
#include "server/openai/openai_fields.h"

namespace strata::server {
namespace {

using nlohmann::json;

constexpr int32_t kDefaultMaxTokens = 16;  // OpenAI's
constexpr int64_t kMinInt = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// The API can generate more than it returns; Strata cannot.
void CheckBestOf(JsonReader* reader) {
  const auto best_of = reader->OptionalInteger("best_of", kMinInt, kMaxInt);
  if (best_of && *best_of != reader->OptionalInteger("n", kMinInt, kMaxInt).value_or(1)) {
    reader->Fail("best_of", absl::StrCat(*best_of, " is not supported; it must be n"));
  }
}

std::vector<int32_t> ReadIds(const json& value, const char* name, JsonReader* reader) {
  std::vector<int32_t> ids;
  if (value.is_null()) return ids;
  if (!value.is_array()) {
    reader->FailExpected(name, "an array of token ids");
    return ids;
  }
  ids.reserve(value.size());
  for (size_t i = 0; i < value.size(); ++i) {
    const std::optional<int64_t> id = WholeNumber(value[i]);
    if (!id || *id < kMinInt || *id > kMaxInt) {
      const char* kind = value[i].is_number() ? "another number" : KindOfJson(value[i]);
      reader->Fail(name, absl::StrCat("expected token ids, got ", kind, " at ", i));
      return ids;
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

// Reads a string, token ids, or a list of strings and of arrays of ids. Errors name only a value's
// kind, as they are logged.
void ReadPrompts(const json& value, JsonReader* reader, CompletionRequest* request) {
  const bool is_list =
      value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  if (is_list && value.size() > engine::kMaxSequences) {
    reader->Fail("prompt",
                 absl::StrCat(value.size(), " prompts is not at most ", engine::kMaxSequences));
    return;
  }
  const size_t count = is_list ? value.size() : 1;
  for (size_t i = 0; i < count && reader->ok(); ++i) {
    const json& prompt = is_list ? value[i] : value;
    const std::string name = count > 1 ? absl::StrCat("prompt[", i, "]") : "prompt";
    if (prompt.is_string()) {
      request->prompts.emplace_back(prompt.get<std::string>());
    } else if (prompt.is_array()) {
      request->prompts.emplace_back(ReadIds(prompt, name.c_str(), reader));
    } else {
      reader->Fail(name, absl::StrCat("expected a string or an array of token ids, got ",
                                      KindOfJson(prompt)));
    }
  }
}

std::optional<int32_t> Int(JsonReader* reader, const char* name) {
  const auto value = reader->OptionalInteger(name, kMinInt, kMaxInt);
  if (!value) return std::nullopt;
  return static_cast<int32_t>(*value);
}

// Reads an array of strings; if `or_one`, also a single string.
std::vector<std::string> ReadStrings(JsonReader* reader, const char* name, bool or_one) {
  const json& value = reader->Value(name);
  std::vector<std::string> strings;
  if (value.is_null()) return strings;
  if (or_one && value.is_string()) return {value.get<std::string>()};
  for (const json& element : value) {
    if (!value.is_array() || !element.is_string()) break;
    strings.push_back(element.get<std::string>());
  }
  if (!value.is_array() || strings.size() < value.size()) {
    reader->FailExpected(name, or_one ? "a string or an array of strings" : "an array of strings");
  }
  return strings;
}

// Reads the seed: -1 is none; other negative numbers count by their bits.
std::optional<uint64_t> ReadSeed(JsonReader* reader) {
  const json& value = reader->Value("seed");
  if (value.is_null()) return std::nullopt;
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  const std::optional<int64_t> seed = WholeNumber(value);
  if (!seed) reader->FailExpected("seed", "a whole number");
  if (!seed || *seed == -1) return std::nullopt;
  return static_cast<uint64_t>(*seed);
}

// {"token id": bias}
std::vector<engine::LogitBias> ReadLogitBias(JsonReader* reader) {
  const json& value = reader->Value("logit_bias");
  std::vector<engine::LogitBias> biases;
  if (value.is_null()) return biases;
  if (!value.is_object()) {
    reader->FailExpected("logit_bias", "an object");
    return biases;
  }
  for (const auto& [key, bias] : value.items()) {
    engine::LogitBias entry;
    if (!absl::SimpleAtoi(key, &entry.id) || !bias.is_number()) {
      reader->Fail("logit_bias", "expected token ids and numbers");
      return biases;
    }
    entry.bias = bias.get<float>();
    biases.push_back(entry);
  }
  std::ranges::sort(biases, {}, &engine::LogitBias::id);
  return biases;
}

// Reads a parameter that keeps its value if the field is absent.
void ReadParameter(JsonReader* reader, const char* name, float* value) {
  *value = reader->OptionalFloat(name).value_or(*value);
}
void ReadParameter(JsonReader* reader, const char* name, int32_t* value) {
  *value = Int(reader, name).value_or(*value);
}

void ReadSampling(JsonReader* reader, GenerationRequest* request) {
  engine::SamplingParams& sampling = request->sampling;
  request->fits_max_tokens = !reader->Has("max_tokens");
  ReadParameter(reader, "max_tokens", &sampling.max_tokens);
  ReadParameter(reader, "min_tokens", &sampling.min_tokens);
  ReadParameter(reader, "temperature", &sampling.temperature);
  ReadParameter(reader, "top_p", &sampling.top_p);
  ReadParameter(reader, "top_k", &sampling.top_k);
  if (sampling.top_k == -1) sampling.top_k = 0;  // vLLM's value for all
  ReadParameter(reader, "min_p", &sampling.min_p);
  ReadParameter(reader, "repetition_penalty", &sampling.repetition_penalty);
  ReadParameter(reader, "frequency_penalty", &sampling.frequency_penalty);
  ReadParameter(reader, "presence_penalty", &sampling.presence_penalty);
  sampling.logit_bias = ReadLogitBias(reader);
  sampling.allowed_ids = ReadIds(reader->Value("allowed_token_ids"), "allowed_token_ids", reader);
  request->bad_words = ReadStrings(reader, "bad_words", /*or_one=*/false);
  request->add_special_tokens = reader->Bool("add_special_tokens", true);
  request->skip_special_tokens = reader->Bool("skip_special_tokens", true);
  request->truncate_prompt_tokens = Int(reader, "truncate_prompt_tokens");
  const std::optional<uint64_t> seed = ReadSeed(reader);
  request->draws_seed = !seed;
  sampling.seed = seed.value_or(sampling.seed);
  request->stop = ReadStrings(reader, "stop", /*or_one=*/true);
  request->include_stop_string = reader->Bool("include_stop_str_in_output", false);
  sampling.stop_ids = ReadIds(reader->Value("stop_token_ids"), "stop_token_ids", reader);
  sampling.ignore_eos = reader->Bool("ignore_eos", sampling.ignore_eos);
  sampling.logprobs = Int(reader, "logprobs");
  ReadParameter(reader, "n", &request->n);
  ReadParameter(reader, "priority", &request->priority);
  request->cache_salt = reader->String("cache_salt", "");
}

void ReadStreamOptions(JsonReader* reader, CompletionRequest* request) {
  request->stream = reader->Bool("stream", false);
  if (!reader->Has("stream_options")) return;
  JsonReader options = reader->Object("stream_options");
  constexpr std::string_view kOptions[] = {"continuous_usage_stats", "include_usage"};
  options.RefuseOthers(kOptions);
  request->include_usage = options.Bool("include_usage", false);
  request->continuous_usage = options.Bool("continuous_usage_stats", false);
  if (!request->stream && (request->include_usage || request->continuous_usage)) {
    reader->Fail("stream_options", "only with stream: true");
  }
}

// Echo and prompt_logprobs both want the prompt's log-probabilities; one count serves both.
std::optional<int32_t> PromptLogprobs(const CompletionRequest& request) {
  const std::optional<int32_t> echoed =
      request.echo ? request.generation.sampling.logprobs : std::nullopt;
  if (!echoed || !request.prompt_logprobs) return echoed ? echoed : request.prompt_logprobs;
  // The engine refuses a negative number.
  return *request.prompt_logprobs < 0 ? *request.prompt_logprobs
                                      : std::max(*echoed, *request.prompt_logprobs);
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body,
                                                  const engine::SamplingDefaults& defaults) {
  ASSIGN_OR_RETURN(const json document, ParseBody(body));
  absl::Status status;
  JsonReader reader(document, "", &status);
  CheckCompletionFields(document, &reader);
  CompletionRequest request;
  request.model = reader.String("model", "");
  request.request_id = reader.String("request_id", "");
  ReadPrompts(reader.Value("prompt"), &reader, &request);
  request.generation.sampling = defaults.Params();
  if (!defaults.max_tokens) request.generation.sampling.max_tokens = kDefaultMaxTokens;
  ReadSampling(&reader, &request.generation);
  CheckBestOf(&reader);
  request.echo = reader.Bool("echo", false);
  request.prompt_logprobs = Int(&reader, "prompt_logprobs");
  request.generation.prompt_logprobs = PromptLogprobs(request);
  request.return_token_ids = reader.Bool("return_token_ids", false);
  request.tokens_as_ids = reader.Bool("return_tokens_as_token_ids", false);
  ReadStreamOptions(&reader, &request);
  if (!status.ok()) return status;
  return request;
}

}  // namespace strata::server
