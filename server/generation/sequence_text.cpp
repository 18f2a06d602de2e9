#include "server/generation/sequence_text.h"

#include <utility>

namespace strata::server {

void SequenceText::Append(std::vector<engine::TokenEvent> tokens, Piece* piece) {
  for (engine::TokenEvent& event : tokens) {
    if (stopped_) return;
    ++num_tokens_;
    piece->token_ids.push_back(event.token);
    if (event.logprobs) piece->logprobs.push_back(*std::move(event.logprobs));
    if (!event.attention.empty()) piece->attention.push_back(std::move(event.attention));
    if (num_tokens_ >= min_tokens_ && stop_strings_->EndsAt(event.token)) {
      StopAt(event.token, piece);
    } else {
      Match(detokenizer_.Append({&event.token, 1}), piece);
    }
  }
}

void SequenceText::AppendEnd(int32_t token, Piece* piece) {
  if (stopped_ || finished_ || !stop_strings_->include()) return;
  matcher_.Push(detokenizer_.Append({&token, 1}), /*armed=*/false, &piece->text);
}

void SequenceText::Finish(Piece* piece) {
  if (stopped_ || std::exchange(finished_, true)) return;
  Match(detokenizer_.Finish(), piece);
  if (!stopped_) matcher_.Finish(&piece->text);
}

void SequenceText::Match(const std::string& text, Piece* piece) {
  stopped_ = matcher_.Push(text, /*armed=*/num_tokens_ >= min_tokens_, &piece->text);
  if (stopped_) stop_string_ = matcher_.met();
}

// Stops at a special token whose text is a stop string but is not in the matched text.
void SequenceText::StopAt(int32_t special_token, Piece* piece) {
  Finish(piece);
  if (stopped_) return;  // by another stop string, in the last bytes before it
  stopped_ = true;
  stop_string_ = tokenizer_->TokenText(special_token);
  if (stop_strings_->include()) piece->text += stop_string_;
}

}  // namespace strata::server
