#include "server/openai_request.h"

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/json_reader.h"

namespace strata::server {
namespace {

using nlohmann::json;

constexpr int32_t kDefaultMaxTokens = 16;  // OpenAI's
constexpr int64_t kMinInt = std::numeric_limits<int32_t>::min();
constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();

// Parameters of the API that are not built, each with the number that asks for nothing.
struct NotBuilt {
  const char* name;
  int neutral;
};
constexpr std::array<NotBuilt, 14> kNotBuilt = {{{"n", 1},
                                                 {"best_of", 1},
                                                 {"suffix", 0},
                                                 {"stop", 0},
                                                 {"logprobs", -1},
                                                 {"prompt_logprobs", -1},
                                                 {"presence_penalty", 0},
                                                 {"frequency_penalty", 0},
                                                 {"repetition_penalty", 1},
                                                 {"logit_bias", 0},
                                                 {"min_tokens", 0},
                                                 {"include_stop_str_in_output", 0},
                                                 {"priority", 0},
                                                 {"cache_salt", 0}}};

bool AsksForNothing(const json& value, int neutral) {
  if (value.is_number()) return value.get<double>() == neutral;
  if (value.is_boolean()) return !value.get<bool>();
  return value.empty() || value == "";  // null, [] and {} are empty
}

void RefuseNotBuilt(JsonReader* reader) {
  for (const NotBuilt& parameter : kNotBuilt) {
    const json& value = reader->Value(parameter.name);
    if (AsksForNothing(value, parameter.neutral)) continue;
    reader->Fail(parameter.name, absl::StrCat(DescribeJson(value), " is not supported"));
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
  for (const json& id : value) {
    const bool fits = id.is_number_integer() &&
                      !(id.is_number_unsigned() && id.get<uint64_t>() > uint64_t{INT32_MAX}) &&
                      id.get<int64_t>() >= kMinInt;
    if (!fits) {
      reader->Fail(name, absl::StrCat("expected token ids, got ", DescribeJson(id)));
      return ids;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// A string, token ids, or an array of one of them.
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
    reader->FailExpected("prompt", "a string or an array of token ids");
  }
}

std::optional<int32_t> Int(JsonReader* reader, const char* name) {
  const auto value = reader->OptionalInteger(name, kMinInt, kMaxInt);
  if (!value) return std::nullopt;
  return static_cast<int32_t>(*value);
}

void ReadSampling(JsonReader* reader, GenerationRequest* request) {
  request->max_tokens = Int(reader, "max_tokens").value_or(kDefaultMaxTokens);
  request->temperature = reader->OptionalFloat("temperature");
  request->top_p = reader->OptionalFloat("top_p");
  request->top_k = Int(reader, "top_k");
  if (request->top_k == -1) request->top_k = 0;  // vLLM's way to say all
  request->min_p = reader->OptionalFloat("min_p");
  const auto seed = reader->OptionalInteger("seed", 0, std::numeric_limits<int64_t>::max());
  if (seed) request->seed = static_cast<uint64_t>(*seed);
  request->ignore_eos = reader->OptionalBool("ignore_eos");
  request->stop_token_ids = ReadIds(reader->Value("stop_token_ids"), "stop_token_ids", reader);
}

}  // namespace

absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body) {
  const json document = json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError("the body is not JSON");
  absl::Status status;
  JsonReader reader(document, "", &status);
  CompletionRequest request;
  request.model = reader.String("model", "");
  ReadPrompt(reader.Value("prompt"), &reader, &request.generation);
  ReadSampling(&reader, &request.generation);
  RefuseNotBuilt(&reader);
  reader.String("user", "");
  request.echo = reader.Bool("echo", false);
  request.stream = reader.Bool("stream", false);
  if (reader.Has("stream_options")) {
    if (!request.stream) reader.Fail("stream_options", "only with stream: true");
    request.include_usage = reader.Object("stream_options").Bool("include_usage", false);
  }
  if (!status.ok()) return status;
  return request;
}

}  // namespace strata::server
