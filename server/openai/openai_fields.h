#pragma once

#include "nlohmann/json.hpp"
#include "server/base/json.h"

namespace strata::server {

// Fails `reader`, which reads `body`, at the first field that asks /v1/completions for something it
// does not do: "not supported yet" if OpenAI's API, vLLM or llama.cpp has the field, otherwise "not
// recognised". Fields that ask for nothing pass: null, an empty value, the default of an
// unsupported field, and fields that only describe the caller (`user`, `metadata` ...).
void CheckCompletionFields(const nlohmann::json& body, JsonReader* reader);

}  // namespace strata::server
