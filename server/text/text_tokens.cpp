#include "server/text/text_tokens.h"

#include "kvcache/base/error_details.h"
#include "server/base/unicode.h"

namespace strata::server {

absl::StatusOr<std::vector<int32_t>> TokensOf(const Tokenizer& tokenizer, std::string_view field,
                                              std::string_view text, bool add_special_tokens) {
  auto ids =
      tokenizer.Encode(text, {.add_special_tokens = add_special_tokens, .parse_special = true});
  if (!ids.ok()) return InField(absl::string_view(field.data(), field.size()), ids.status());
  return ids;
}

absl::StatusOr<std::string> TextOf(const Tokenizer& tokenizer, std::string_view field,
                                   std::span<const int32_t> ids, bool skip_special) {
  auto bytes = tokenizer.Decode(ids, skip_special);
  if (!bytes.ok()) return InField(absl::string_view(field.data(), field.size()), bytes.status());
  std::string text;
  TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
  return text;
}

}  // namespace strata::server
