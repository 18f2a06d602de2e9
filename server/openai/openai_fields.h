#pragma once

#include "nlohmann/json.hpp"
#include "server/base/json_reader.h"

namespace strata::server {

// Fails `reader`, which reads `body`, at the first field that asks /v1/completions for what it does
// not do: "not supported yet" where OpenAI's API, vLLM or llama.cpp has it, else "not recognised".
// A field that asks for nothing passes: null, an empty value, the default of one that is not
// supported, and what only names the caller (`user`, `metadata` ...).
void CheckCompletionFields(const nlohmann::json& body, JsonReader* reader);

}  // namespace strata::server
