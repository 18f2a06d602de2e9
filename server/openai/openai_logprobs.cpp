#include "server/openai/openai_logprobs.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "server/base/unicode.h"

namespace strata::server {
namespace {

// Characters before the character of `byte`, after `pending`, the start of a character that `byte`
// may continue.
int64_t CharactersEnded(const std::string& pending, char byte) {
  std::string bytes = pending + byte;
  std::string text;
  TakeValidUtf8(/*at_end=*/false, &bytes, &text);
  const int64_t ended = CountCharacters(text);
  return ended > 0 && bytes.empty() ? ended - 1 : ended;  // else the byte's character has not ended
}

}  // namespace

LogprobsWriter::LogprobsWriter(const Tokenizer* tokenizer, TokenForm form)
    : tokenizer_(tokenizer), form_(form), stream_(tokenizer->decoder()) {}

std::string LogprobsWriter::TextOf(int32_t id) const {
  if (form_.as_ids) return absl::StrCat("token_id:", id);
  const std::array<int32_t, 2> ids = {id, id};
  auto bytes = tokenizer_->Decode(std::span(ids).first(1), /*skip_special=*/false);
  if (bytes.ok() && !at_start_) {
    // Some decoders take the space off the first token: the second adds its whole text.
    const auto twice = tokenizer_->Decode(ids, /*skip_special=*/false);
    if (twice.ok() && twice->starts_with(*bytes)) bytes = twice->substr(bytes->size());
  }
  std::string text;
  if (bytes.ok()) TakeValidUtf8(/*at_end=*/true, &*bytes, &text);
  return text;
}

void LogprobsWriter::Prime(std::span<const int32_t> ids) {
  for (const int32_t id : ids) Advance(id);
  offset_ = 0;
}

void LogprobsWriter::Append(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
                            CompletionLogprobs* out) {
  AppendEntry(id, logprobs, top, out);
  out->text_offset.push_back(Advance(id));
}

void LogprobsWriter::AppendEnd(int32_t id, const engine::TokenLogprobs& logprobs, int32_t top,
                               CompletionLogprobs* out) {
  AppendEntry(id, &logprobs, top, out);
  out->text_offset.push_back(offset_);
}

void LogprobsWriter::AppendEntry(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
                                 CompletionLogprobs* out) {
  const std::string text = TextOf(id);
  out->tokens.push_back(text);
  auto& likeliest = out->top_logprobs.emplace_back();
  if (logprobs == nullptr) {
    out->token_logprobs.emplace_back();
    return;
  }
  out->token_logprobs.emplace_back(logprobs->logprob);
  bool listed = false;
  const size_t count = std::min(logprobs->top.size(), static_cast<size_t>(top));
  for (const engine::TokenLogprob& likely : std::span(logprobs->top).first(count)) {
    listed = listed || likely.id == id;
    likeliest.emplace_back(TextOf(likely.id), likely.logprob);
  }
  if (!listed) likeliest.emplace_back(text, logprobs->logprob);
}

// Adds the token to the text; returns the characters before the character of its first byte.
int64_t LogprobsWriter::Advance(int32_t id) {
  const std::string_view token = tokenizer_->TokenText(id);
  if (token.empty() || (form_.skip_special && tokenizer_->IsSpecial(id))) return offset_;
  at_start_ = false;
  const std::string before = pending_;
  stream_.Push(token, &pending_);
  int64_t offset = offset_;
  if (pending_.size() > before.size()) offset += CharactersEnded(before, pending_[before.size()]);
  std::string text;
  TakeValidUtf8(/*at_end=*/false, &pending_, &text);
  offset_ += CountCharacters(text);
  return offset;
}

}  // namespace strata::server
