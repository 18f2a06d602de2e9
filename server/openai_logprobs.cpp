#include "server/openai_logprobs.h"

#include <algorithm>
#include <array>
#include <span>

#include "server/unicode.h"

namespace strata::server {

std::string LogprobsWriter::TextOf(int32_t id) const {
  const std::array<int32_t, 2> ids = {id, id};
  auto bytes = tokenizer_->Decode(std::span(ids).first(1), /*skip_special=*/false);
  if (bytes.ok() && !at_start_) {
    // Some decoders take the space off the first token: what the second adds is what it stands for.
    const auto twice = tokenizer_->Decode(ids, /*skip_special=*/false);
    if (twice.ok() && twice->starts_with(*bytes)) bytes = twice->substr(bytes->size());
  }
  std::string text;
  if (bytes.ok()) TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
  return text;
}

void LogprobsWriter::Append(int32_t id, const engine::TokenLogprobs* logprobs,
                            CompletionLogprobs* out) {
  const std::string text = TextOf(id);
  out->text_offset.push_back(offset_);
  if (!tokenizer_->IsSpecial(id)) {
    at_start_ = false;
    offset_ += std::count_if(text.begin(), text.end(), [](char c) {
      return (static_cast<unsigned char>(c) & 0xC0) != 0x80;  // the first byte of a character
    });
  }
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
