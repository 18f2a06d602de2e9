#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/base/types.h"
#include "server/text/detokenizer.h"
#include "server/text/stop_strings.h"

namespace strata::server {

// The text of one sequence as its tokens come, up to a stop string. One thread; tokenizer and
// strings must outlive it. A copy continues independently.
class SequenceText {
 public:
  struct Piece {
    std::string text;  // valid UTF-8; the settled part
    std::vector<int32_t> token_ids;
    std::vector<engine::TokenLogprobs> logprobs;  // as many, or none
    std::vector<std::vector<float>> attention;    // likewise
  };

  // A stop string counts from token `min_tokens` on. `skip_special` leaves special tokens out of
  // the text.
  SequenceText(const Tokenizer* tokenizer, bool skip_special, const StopStrings* stop_strings,
               int32_t min_tokens)
      : tokenizer_(tokenizer),
        detokenizer_(tokenizer, skip_special),
        stop_strings_(stop_strings),
        matcher_(stop_strings),
        min_tokens_(min_tokens) {}

  // Call before the first token with the prompt, which the output continues.
  void Prime(std::span<const int32_t> prompt) { detokenizer_.Prime(prompt); }

  // Appends the text of `tokens`. Tokens after the one that completes a stop string are left out,
  // and so are all tokens once stopped().
  void Append(std::vector<engine::TokenEvent> tokens, Piece* piece);
  // Appends the token that ended the output: part of the text if stop strings are. Call before
  // Finish; no effect after it.
  void AppendEnd(int32_t token, Piece* piece);
  // Appends the rest of the text after the last token; no effect when called again.
  void Finish(Piece* piece);

  bool stopped() const { return stopped_; }                        // by a stop string
  const std::string& stop_string() const { return stop_string_; }  // that one
  int32_t num_tokens() const { return num_tokens_; }               // given out

 private:
  void Match(const std::string& text, Piece* piece);
  void StopAt(int32_t special_token, Piece* piece);

  const Tokenizer* tokenizer_;
  Detokenizer detokenizer_;
  const StopStrings* stop_strings_;
  StopMatcher matcher_;
  int32_t min_tokens_;
  int32_t num_tokens_ = 0;
  bool stopped_ = false;
  std::string stop_string_;
  bool finished_ = false;
};

}  // namespace strata::server
