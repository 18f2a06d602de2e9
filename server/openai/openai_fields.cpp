#include "server/openai/openai_fields.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace strata::server {
namespace {

using nlohmann::json;

// Fields that ParseCompletion reads.
constexpr std::string_view kRead[] = {
    "add_special_tokens",
    "allowed_token_ids",
    "bad_words",
    "best_of",
    "cache_salt",
    "echo",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_p",
    "min_tokens",
    "model",
    "n",
    "presence_penalty",
    "priority",
    "prompt",
    "prompt_logprobs",
    "repetition_penalty",
    "request_id",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "seed",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
    "truncate_prompt_tokens",
};

// Fields about the caller and the account, which change no answer.
constexpr std::string_view kIgnored[] = {
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
};

struct Unsupported {
  std::string_view name;
  const char* harmless = "";  // JSON of a value that asks for nothing, besides empty values
};

constexpr Unsupported kUnsupported[] = {
    // OpenAI's fields
    {"audio"},
    {"function_call", R"("none")"},
    {"functions"},
    {"max_completion_tokens"},
    {"messages"},
    {"modalities", R"(["text"])"},
    {"parallel_tool_calls", "true"},
    {"prediction"},
    {"reasoning_effort"},
    {"response_format", R"({"type":"text"})"},
    {"suffix"},
    {"tool_choice", R"("none")"},
    {"tools"},
    {"top_logprobs"},
    {"verbosity"},
    {"web_search_options"},
    // vLLM's fields
    {"chat_template"},
    {"chat_template_kwargs"},
    {"detokenize", "true"},
    {"early_stopping"},
    {"guided_choice"},
    {"guided_decoding_backend"},
    {"guided_grammar"},
    {"guided_json"},
    {"guided_json_object"},
    {"guided_regex"},
    {"guided_whitespace_pattern"},
    {"kv_transfer_params"},
    {"length_penalty", "1"},
    {"logits_processors"},
    {"mm_processor_kwargs"},
    {"prompt_embeds"},
    {"spaces_between_special_tokens", "true"},
    {"structural_tag"},
    {"structured_outputs"},
    {"truncation_side", R"("left")"},
    {"use_beam_search"},
    {"vllm_xargs"},
    // Fields of llama.cpp and others
    {"dry_multiplier", "0"},
    {"dynatemp_range", "0"},
    {"grammar"},
    {"json_schema"},
    {"lora"},
    {"mirostat", "0"},
    {"tfs_z", "1"},
    {"top_a", "0"},
    {"top_n_sigma", "-1"},
    {"typical_p", "1"},
    {"xtc_probability", "0"},
};

bool IsHarmless(const json& value, const Unsupported& field) {
  return value == json("") || value == json(false) ||
         value == json::parse(field.harmless, nullptr, /*allow_exceptions=*/false);
}

}  // namespace

void CheckCompletionFields(const json& body, JsonReader* reader) {
  for (const auto& [name, value] : body.items()) {
    if (AsksForNothing(value)) continue;
    const std::string_view field = name;
    if (std::ranges::find(kRead, field) != std::end(kRead)) continue;
    if (std::ranges::find(kIgnored, field) != std::end(kIgnored)) continue;
    const auto* known = std::ranges::find(kUnsupported, field, &Unsupported::name);
    if (known == std::end(kUnsupported)) {
      reader->FailUnknown(name);
      return;
    }
    if (IsHarmless(value, *known)) continue;
    reader->Fail(name, "not supported yet");
    return;
  }
}

}  // namespace strata::server
