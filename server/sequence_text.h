#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/types.h"
#include "server/detokenizer.h"
#include "server/stop_strings.h"

namespace strata::server {

// The text of one sequence as its tokens come, up to a stop string. One thread; tokenizer and
// strings must outlive it. A copy continues on its own.
class SequenceText {
 public:
  struct Piece {
    std::string text;  // valid UTF-8; what is settled
    std::vector<int32_t> token_ids;
    std::vector<engine::TokenLogprobs> logprobs;  // as many, or none
    std::vector<std::vector<float>> attention;    // likewise
  };

  // A stop string counts from token `min_tokens` on.
  SequenceText(const Tokenizer* tokenizer, const StopStrings* stop_strings, int32_t min_tokens)
      : detokenizer_(tokenizer, /*skip_special=*/true),
        matcher_(stop_strings),
        min_tokens_(min_tokens) {}

  // Before the first token: the prompt, which the output continues.
  void Prime(std::span<const int32_t> prompt) { detokenizer_.Prime(prompt); }

  // Appends what `tokens` give. Those after the one that completes a stop string are left out, and
  // so is everything once stopped().
  void Append(std::vector<engine::TokenEvent> tokens, Piece* piece);
  // Appends the rest of the text; after the last token, and again without effect.
  void Finish(Piece* piece);

  bool stopped() const { return stopped_; }           // by a stop string
  int32_t num_tokens() const { return num_tokens_; }  // given out

 private:
  bool Match(const std::string& text, Piece* piece);

  Detokenizer detokenizer_;
  StopMatcher matcher_;
  int32_t min_tokens_;
  int32_t num_tokens_ = 0;
  bool stopped_ = false;
  bool finished_ = false;
};

}  // namespace strata::server
