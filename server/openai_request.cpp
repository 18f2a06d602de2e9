#include "server/openai_request.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/json_reader.h"

namespace strata::server {
namespace {

using nlohmann::json;

constexpr int32_t kDefaultMaxTokens = 16;  // OpenAI's
constexpr int64_t kMinInt = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// The API can generate more than it returns, and fill in the middle; Strata cannot.
void RefuseNotBuilt(JsonReader* reader) {
  const auto best_of = reader->OptionalInteger("best_of", kMinInt, kMaxInt);
  if (best_of && *best_of != reader->OptionalInteger("n", kMinInt, kMaxInt).value_or(1)) {
    reader->Fail("best_of", absl::StrCat(*best_of, " is not supported; it must be n"));
  }
  if (!reader->String("suffix", "").empty()) reader->Fail("suffix", "is not supported");
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
    const json& id = value[i];
    const bool fits = id.is_number_integer() &&
                      !(id.is_number_unsigned() && id.get<uint64_t>() > uint64_t{INT32_MAX}) &&
                      id.get<int64_t>() >= kMinInt;
    if (!fits) {
      const char* kind = id.is_number() ? "another number" : KindOfJson(id);
      reader->Fail(name, absl::StrCat("expected token ids, got ", kind, " at ", i));
      return ids;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// A string, token ids, or an array of one of them. Errors tell its kind alone: they are logged.
void ReadPrompt(const json& value, JsonReader* reader, GenerationRequest* request) {
  const bool list =
      value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  if (list && value.size() > 1) {
    reader->Fail("prompt", absl::StrCat(value.size(), " prompts; at most 1 in a request"));
    return;
  }
  const json& prompt = list ? value[0] : value;
  if (prompt.is_string()) {
    request->prompt = prompt.get<std::string>();
  } else if (prompt.is_array()) {
    request->prompt = ReadIds(prompt, "prompt", reader);
  } else {
    reader->Fail("prompt", absl::StrCat("expected a string or an array of token ids, got ",
                                        KindOfJson(prompt)));
  }
}

std::optional<int32_t> Int(JsonReader* reader, const char* name) {
  const auto value = reader->OptionalInteger(name, kMinInt, kMaxInt);
  if (!value) return std::nullopt;
  return static_cast<int32_t>(*value);
}

// A string or an array of strings.
std::vector<std::string> ReadStop(JsonReader* reader) {
  const json& value = reader->Value("stop");
  std::vector<std::string> strings;
  if (value.is_null()) return strings;
  if (value.is_string()) return {value.get<std::string>()};
  for (const json& element : value) {
    if (!value.is_array() || !element.is_string()) break;
    strings.push_back(element.get<std::string>());
  }
  if (!value.is_array() || strings.size() < value.size()) {
    reader->FailExpected("stop", "a string or an array of strings");
  }
  return strings;
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

void ReadSampling(JsonReader* reader, GenerationRequest* request) {
  request->max_tokens = Int(reader, "max_tokens");
  request->default_max_tokens = kDefaultMaxTokens;
  request->min_tokens = Int(reader, "min_tokens");
  request->temperature = reader->OptionalFloat("temperature");
  request->top_p = reader->OptionalFloat("top_p");
  request->top_k = Int(reader, "top_k");
  if (request->top_k == -1) request->top_k = 0;  // vLLM's way to say all
  request->min_p = reader->OptionalFloat("min_p");
  request->repetition_penalty = reader->OptionalFloat("repetition_penalty");
  request->frequency_penalty = reader->OptionalFloat("frequency_penalty");
  request->presence_penalty = reader->OptionalFloat("presence_penalty");
  request->logit_bias = ReadLogitBias(reader);
  const auto seed = reader->OptionalInteger("seed", 0, std::numeric_limits<int64_t>::max());
  if (seed) request->seed = static_cast<uint64_t>(*seed);
  request->stop = ReadStop(reader);
  request->include_stop_string = reader->Bool("include_stop_str_in_output", false);
  request->stop_token_ids = ReadIds(reader->Value("stop_token_ids"), "stop_token_ids", reader);
  request->ignore_eos = reader->OptionalBool("ignore_eos");
  request->logprobs = Int(reader, "logprobs");
  request->n = Int(reader, "n");
  request->priority = Int(reader, "priority");
  request->cache_salt = reader->String("cache_salt", "");
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body) {
  const json document = json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("the body is not JSON");
  if (!document.is_object()) {  // perhaps the prompt itself
    return absl::InvalidArgumentError(
        absl::StrCat("document: expected an object, got ", KindOfJson(document)));
  }
  absl::Status status;
  JsonReader reader(document, "", &status);
  CompletionRequest request;
  request.model = reader.String("model", "");
  ReadPrompt(reader.Value("prompt"), &reader, &request.generation);
  ReadSampling(&reader, &request.generation);
  RefuseNotBuilt(&reader);
  reader.String("user", "");
  request.echo = reader.Bool("echo", false);
  // What is echoed has its log-probabilities too.
  if (request.echo) request.generation.prompt_logprobs = request.generation.logprobs;
  request.stream = reader.Bool("stream", false);
  if (reader.Has("stream_options")) {
    if (!request.stream) reader.Fail("stream_options", "only with stream: true");
    request.include_usage = reader.Object("stream_options").Bool("include_usage", false);
  }
  if (!status.ok()) return status;
  return request;
}

}  // namespace strata::server
