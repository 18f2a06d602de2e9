#pragma once

#include <string>

#include "server/base/json.h"

namespace strata::server {

enum class PrependScheme { kAlways, kFirst, kNever };

// The common fields of Metaspace as pre-tokenizer and as decoder: spaces are spelled as
// `replacement`, usually U+2581.
struct Metaspace {
  std::string replacement;  // one character
  PrependScheme scheme = PrependScheme::kAlways;
  bool split = true;

  // Errors are in the reader's status.
  static Metaspace FromJson(JsonReader object);
};

// A field that holds exactly one character.
std::string ReadCharacter(JsonReader* object, std::string_view name);

}  // namespace strata::server
