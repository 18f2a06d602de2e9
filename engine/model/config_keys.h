#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "kvcache/base/json_reader.h"

namespace strata::engine {

// Fails `config`, UNIMPLEMENTED naming the key and its value, at a key that may change the
// mathematics: one that is not in `known`
// (words between spaces), is not harmless in every model (settings of training
// and of libraries), and asks for something. null, [], {}, false and 0 ask for nothing, but for
// keys known to mean something by them; so do values such as norm_type = "rmsnorm" that announce
// what is built anyway.
void RefuseUnknownKeys(JsonReader& config, std::string_view architecture, const std::string& known);

// Fails `config` unless every entry of the list, one for each layer, is `kind`.
void CheckAllAre(JsonReader& config, std::string_view key, const nlohmann::json& kind);

// Fails `config` if `key` is missing but one of `others` is present. They are names of `key` in
// other configs; without this a default would be used instead.
void RefuseOtherNames(JsonReader& config, std::string_view key,
                      std::initializer_list<std::string_view> others);

}  // namespace strata::engine
