#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/types.h"
#include "server/text/token_decoder.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// OpenAI's `logprobs` of a completion: parallel lists, an entry a token.
struct CompletionLogprobs {
  std::vector<std::string> tokens;                   // as text
  std::vector<std::optional<float>> token_logprobs;  // null for the prompt's first
  // The likeliest tokens, likeliest first, and the token itself if it is not among them. Texts may
  // be equal: tokens that are parts of a character are all shown as U+FFFD.
  std::vector<std::vector<std::pair<std::string, float>>> top_logprobs;
  std::vector<int64_t> text_offset;  // characters of the text before the token's first character
};

// Form in which tokens are shown.
struct TokenForm {
  bool skip_special = true;  // the text leaves special tokens out; they still have entries
  bool as_ids = false;       // "token_id:42", unique for each token
};

// Appends the tokens of one text, in order: their texts, put together, are that text, except for
// special tokens and for characters of several tokens. A copy continues independently. The
// tokenizer must outlive it.
class LogprobsWriter {
 public:
  LogprobsWriter(const Tokenizer* tokenizer, TokenForm form);

  // Call before the first token: the text continues the text of `ids`, and does not hold it.
  void Prime(std::span<const int32_t> ids);
  // Appends an entry with at most `top` of the likeliest; without `logprobs` an entry of nulls.
  void Append(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
              CompletionLogprobs* out);
  // The same for the token that ended the text; the text does not grow by it.
  void AppendEnd(int32_t id, const engine::TokenLogprobs& logprobs, int32_t top,
                 CompletionLogprobs* out);
  // Sets the characters of the text so far, if that text was given, not made of tokens.
  void set_offset(int64_t characters) { offset_ = characters; }

  // The text that the token would be shown as next.
  std::string TextOf(int32_t id) const;

 private:
  void AppendEntry(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
                   CompletionLogprobs* out);
  int64_t Advance(int32_t id);

  const Tokenizer* tokenizer_;
  TokenForm form_;
  TokenDecoderStream stream_;
  std::string pending_;   // the start of a character
  bool at_start_ = true;  // no text has come yet
  int64_t offset_ = 0;    // characters of the text that are complete
};

}  // namespace strata::server
