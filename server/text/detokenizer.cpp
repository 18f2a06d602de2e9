#include "server/text/detokenizer.h"

#include "server/base/unicode.h"

namespace strata::server {

Detokenizer::Detokenizer(const Tokenizer* tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), stream_(tokenizer->decoder()) {}

void Detokenizer::Prime(std::span<const int32_t> ids) { Append(ids); }

std::string Detokenizer::Append(std::span<const int32_t> ids) {
  for (const int32_t id : ids) {
    if (skip_special_ && tokenizer_->IsSpecial(id)) continue;
    const std::string_view token = tokenizer_->TokenText(id);
    if (!token.empty()) stream_.Push(token, &pending_);
  }
  std::string text;
  TakeValidUtf8(/*at_end=*/false, &pending_, &text);
  return text;
}

std::string Detokenizer::Finish() {
  stream_.Finish(&pending_);
  std::string text;
  TakeValidUtf8(/*at_end=*/true, &pending_, &text);
  return text;
}

}  // namespace strata::server
