#include "server/sequence_text.h"

#include <utility>

namespace strata::server {

void SequenceText::Append(std::vector<engine::TokenEvent> tokens, Piece* piece) {
  for (engine::TokenEvent& event : tokens) {
    if (stopped_) return;
    ++num_tokens_;
    piece->token_ids.push_back(event.token);
    if (event.logprobs) piece->logprobs.push_back(*std::move(event.logprobs));
    if (!event.attention.empty()) piece->attention.push_back(std::move(event.attention));
    stopped_ = Match(detokenizer_.Append({&event.token, 1}), piece);
  }
}

void SequenceText::Finish(Piece* piece) {
  if (stopped_ || std::exchange(finished_, true)) return;
  stopped_ = Match(detokenizer_.Finish(), piece);
  if (!stopped_) matcher_.Finish(&piece->text);
}

bool SequenceText::Match(const std::string& text, Piece* piece) {
  return matcher_.Push(text, /*armed=*/num_tokens_ >= min_tokens_, &piece->text);
}

}  // namespace strata::server
