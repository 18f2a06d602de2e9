#include "server/openai_logprobs.h"

#include <algorithm>
#include <span>

#include "server/unicode.h"

namespace strata::server {

std::string LogprobsWriter::TextOf(int32_t id) const {
  auto bytes = tokenizer_->Decode(std::span(&id, 1), /*skip_special=*/false);
  std::string text;
  if (bytes.ok()) TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
  return text;
}

void LogprobsWriter::Append(int32_t id, const engine::TokenLogprobs* logprobs,
                            CompletionLogprobs* out) {
  const std::string text = TextOf(id);
  out->text_offset.push_back(offset_);
  offset_ += std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // the first byte of a character
  });
  out->tokens.push_back(text);
  auto& top = out->top_logprobs.emplace_back();
  if (logprobs == nullptr) {
    out->token_logprobs.emplace_back();
    return;
  }
  out->token_logprobs.emplace_back(logprobs->logprob);
  bool listed = false;
  for (const engine::TokenLogprob& likely : logprobs->top) {
    listed = listed || likely.id == id;
    top.emplace_back(TextOf(likely.id), likely.logprob);
  }
  if (!listed) top.emplace_back(text, logprobs->logprob);
}

}  // namespace strata::server
