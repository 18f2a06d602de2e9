#include "server/openai/openai_tokenize.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/base/json.h"
#include "server/openai/openai_json.h"
#include "server/text/text_tokens.h"

namespace strata::server {
namespace {

using nlohmann::json;

// Parameters of vLLM's other form of /tokenize, for chats.
constexpr std::array<std::string_view, 7> kOfChats = {
    "messages",      "add_generation_prompt", "continue_final_message",
    "chat_template", "chat_template_kwargs",  "mm_processor_kwargs",
    "tools"};

// Makes the answer from a request's fields; errors in the fields are in the reader.
using Responder = std::function<absl::StatusOr<json>(JsonReader* reader)>;

absl::StatusOr<json> AnswerTo(std::string_view body, const ServedModels& models,
                              const Responder& respond) {
  ASSIGN_OR_RETURN(const json document, ParseBody(body));
  absl::Status status;
  JsonReader reader(document, "", &status);
  const std::string model = reader.String("model", "");
  if (!status.ok()) return status;
  RETURN_IF_ERROR(models.Check(model));
  return respond(&reader);
}

HttpReply ReplyTo(const GenerationContext& context, const ServedModels& models,
                  const HttpCall& call, const Responder& respond) {
  std::shared_ptr<Caller> caller;
  if (absl::Status refused = AdmitCaller(context, call.authorization, &caller); !refused.ok()) {
    RecordRefusal(context, call.request_id, refused, caller ? caller->key() : "");
    return StatusReply(refused);
  }
  const absl::StatusOr<json> document = AnswerTo(call.body, models, respond);
  if (!document.ok()) return StatusReply(document.status());
  return {.body = JsonLine(*document)};
}

// Reads the prompt. Errors name only a value's kind: it may be a part of a prompt.
std::string ReadPrompt(JsonReader* reader) {
  const json& prompt = reader->Value("prompt");
  if (prompt.is_string()) return prompt.get<std::string>();
  reader->Fail("prompt", absl::StrCat("expected a string, got ", KindOfJson(prompt)));
  return {};
}

std::vector<int32_t> ReadTokens(JsonReader* reader) {
  const json& tokens = reader->Value("tokens");
  std::vector<int32_t> ids;
  if (!tokens.is_array()) {
    reader->Fail("tokens",
                 absl::StrCat("expected an array of token ids, got ", KindOfJson(tokens)));
    return ids;
  }
  ids.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    const json& id = tokens[i];
    if (!id.is_number_unsigned() || id.get<uint64_t>() > uint64_t{INT32_MAX}) {
      const char* kind = id.is_number() ? "another number" : KindOfJson(id);
      reader->Fail("tokens", absl::StrCat("expected token ids, got ", kind, " at ", i));
      return ids;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// Whether the value is about a token: {"content": "<s>", "lstrip": false, ..}.
bool IsToken(const json& value) {
  const auto content = value.is_object() ? value.find("content") : value.end();
  if (!value.is_object() || content == value.end() || !content->is_string()) return false;
  return std::ranges::all_of(value.items(), [](const auto& item) {
    return item.value().is_boolean() || item.key() == "content" || item.key() == "__type";
  });
}

// Replaces objects about tokens by the tokens' names, in fields of a config, in lists or by id.
void NameTokens(int depth, json* value) {
  if (IsToken(*value)) {
    *value = json((*value)["content"]);
  } else if (value->is_structured() && depth > 0) {
    for (json& element : *value) NameTokens(depth - 1, &element);
  }
}

}  // namespace

HttpReply OpenAiTokenize::Tokenize(const HttpCall& call) const {
  return ReplyTo(context_, *models_, call, [this](JsonReader* reader) -> absl::StatusOr<json> {
    for (const std::string_view name : kOfChats) {
      if (reader->Has(name)) reader->Fail(name, "not supported yet");
    }
    std::vector<std::string_view> known = {"model", "prompt", "add_special_tokens",
                                           "return_token_strs"};
    known.insert(known.end(), kOfChats.begin(), kOfChats.end());
    reader->RefuseOthers(known);
    const std::string prompt = ReadPrompt(reader);
    const bool add_special = reader->Bool("add_special_tokens", true);
    const bool with_strings = reader->Bool("return_token_strs", false);
    if (!reader->ok()) return reader->status();
    const Tokenizer& tokenizer = *context_.tokenizer;
    ASSIGN_OR_RETURN(const auto ids, TokensOf(tokenizer, "prompt", prompt, add_special));
    json strings;
    if (with_strings) {
      strings = json::array();
      for (const int32_t id : ids) strings.push_back(tokenizer.TokenText(id));
    }
    return json{{"count", ids.size()},
                {"max_model_len", context_.engine->model().max_positions},
                {"tokens", ids},
                {"token_strs", std::move(strings)}};
  });
}

HttpReply OpenAiTokenize::Detokenize(const HttpCall& call) const {
  return ReplyTo(context_, *models_, call, [this](JsonReader* reader) -> absl::StatusOr<json> {
    constexpr std::array<std::string_view, 2> kKnown = {"model", "tokens"};
    reader->RefuseOthers(kKnown);
    const std::vector<int32_t> ids = ReadTokens(reader);
    if (!reader->ok()) return reader->status();
    ASSIGN_OR_RETURN(auto text, TextOf(*context_.tokenizer, "tokens", ids, /*skip_special=*/false));
    return json{{"prompt", std::move(text)}};
  });
}

HttpReply OpenAiTokenize::Info() const {
  constexpr int kDepth = 2;
  const Tokenizer& tokenizer = *context_.tokenizer;
  const engine::ModelInfo& model = context_.engine->model();
  json info = json::parse(tokenizer.config(), nullptr, /*allow_exceptions=*/false);
  if (!info.is_object()) info = json::object();  // there is no config
  NameTokens(kDepth, &info);
  for (const char* file : {"vocab_file", "merges_file"}) info.erase(file);
  const auto add = [&info](const char* name, json value) {
    if (info[name].is_null()) info[name] = std::move(value);
  };
  add("tokenizer_class", "PreTrainedTokenizerFast");
  add("model_max_length", model.max_positions);
  const auto end =
      std::ranges::find_if(model.eos_ids, [&](int32_t id) { return tokenizer.IsSpecial(id); });
  if (end != model.eos_ids.end()) add("eos_token", tokenizer.TokenText(*end));
  return {.body = JsonLine(info)};
}

}  // namespace strata::server
