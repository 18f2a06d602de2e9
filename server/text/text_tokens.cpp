#include "server/text/text_tokens.h"

#include "server/base/string_util.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

absl::Status InField(std::string_view field, const absl::Status& status) {
  return {status.code(), Concat(field, ": ", std::string(status.message()))};
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokensOf(const Tokenizer& tokenizer, std::string_view field,
                                              std::string_view text, bool add_special_tokens) {
  auto ids =
      tokenizer.Encode(text, {.add_special_tokens = add_special_tokens, .parse_special = true});
  if (!ids.ok()) return InField(field, ids.status());
  return ids;
}

absl::StatusOr<std::string> TextOf(const Tokenizer& tokenizer, std::string_view field,
                                   std::span<const int32_t> ids, bool skip_special) {
  auto bytes = tokenizer.Decode(ids, skip_special);
  if (!bytes.ok()) return InField(field, bytes.status());
  std::string text;
  TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
  return text;
}

}  // namespace strata::server
