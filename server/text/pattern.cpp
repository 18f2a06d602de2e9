#include "server/text/pattern.h"

#include <memory>
#include <utility>

#include "kvcache/base/errors.h"

namespace strata::server {

absl::StatusOr<Pattern> Pattern::FromJson(JsonReader owner) {
  JsonReader object = owner.Object("pattern");
  if (!owner.ok()) return owner.status();
  if (object.Has("Regex")) {
    const std::string regex = object.String("Regex");
    if (!owner.ok()) return owner.status();
    absl::StatusOr<Pattern> pattern = FromRegex(regex);
    if (!pattern.ok()) return object.Fail("Regex", std::string(pattern.status().message()));
    return pattern;
  }
  const std::string literal = object.String("String");
  if (owner.ok() && literal.empty()) object.FailExpected("String", "some text");
  if (!owner.ok()) return owner.status();
  return FromLiteral(literal);
}

absl::StatusOr<Pattern> Pattern::FromRegex(std::string_view regex) {
  ASSIGN_OR_RETURN(Regex compiled, Regex::Compile(regex));
  Pattern pattern;
  pattern.regex_ = std::move(compiled);
  return pattern;
}

Pattern Pattern::FromLiteral(std::string_view literal) {
  Pattern pattern;
  pattern.literal_ = literal;
  return pattern;
}

Search Pattern::NewSearch() const {
  if (regex_) {
    return [matcher = std::make_shared<RegexMatcher>(*regex_)](std::string_view text,
                                                               std::vector<TextRange>* matches) {
      return matcher->FindAll(text, matches);
    };
  }
  return [this](std::string_view text, std::vector<TextRange>* matches) {
    matches->clear();
    for (size_t i = text.find(literal_); i != std::string_view::npos;) {
      matches->push_back({i, i + literal_.size()});
      i = text.find(literal_, i + literal_.size());
    }
    return absl::OkStatus();
  };
}

}  // namespace strata::server
