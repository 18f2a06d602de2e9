#pragma once

#include "server/generation/generation.h"
#include "server/http/http_message.h"
#include "server/openai/served_models.h"

namespace strata::server {

// vLLM's paths for text and tokens beside OpenAI's API.
// Threads: every method may be called from any thread.
class OpenAiTokenize {
 public:
  // The objects that `context` points to, and `models`, outlive this.
  OpenAiTokenize(const GenerationContext& context, const ServedModels* models)
      : context_(context), models_(models) {}

  // POST /tokenize {"model"?, "prompt", "add_special_tokens": true, "return_token_strs": false}
  //   ─► {"count", "max_model_len", "tokens", "token_strs": null or as the vocabulary spells them}
  HttpReply Tokenize(const HttpCall& call) const;

  // POST /detokenize {"model"?, "tokens"} ─► {"prompt"}, special tokens included.
  HttpReply Detokenize(const HttpCall& call) const;

  // GET /tokenizer_info ─► the model's tokenizer_config.json, with a token's name in place of an
  // object about it, and "tokenizer_class", "model_max_length" and "eos_token" added if missing and
  // known.
  HttpReply Info() const;

 private:
  const GenerationContext context_;
  const ServedModels* const models_;
};

}  // namespace strata::server
