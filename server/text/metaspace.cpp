#include "server/text/metaspace.h"

#include <optional>

#include "server/base/unicode.h"

namespace strata::server {

Metaspace Metaspace::FromJson(JsonReader object) {
  Metaspace metaspace;
  metaspace.replacement = ReadCharacter(&object, "replacement");
  metaspace.split = object.Bool("split", true);
  const std::string scheme = object.String("prepend_scheme", "always");
  if (scheme == "first") {
    metaspace.scheme = PrependScheme::kFirst;
  } else if (scheme == "never") {
    metaspace.scheme = PrependScheme::kNever;
  } else if (scheme != "always") {
    object.FailExpected("prepend_scheme", "always, first or never");
  }
  // The older form of "never".
  if (object.OptionalBool("add_prefix_space") == false) {
    if (object.Has("prepend_scheme") && metaspace.scheme != PrependScheme::kNever) {
      object.Fail("add_prefix_space", "false contradicts prepend_scheme");
    }
    metaspace.scheme = PrependScheme::kNever;
  }
  return metaspace;
}

std::string ReadCharacter(JsonReader* object, std::string_view name) {
  const std::string text = object->String(name);
  if (object->ok() && (text.empty() || ReadUtf8(text, 0).size != text.size())) {
    object->FailExpected(name, "one character");
  }
  return text;
}

}  // namespace strata::server
