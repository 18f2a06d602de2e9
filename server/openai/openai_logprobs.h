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
  // The likeliest, likeliest first, and the token itself where it is none of them. Texts may be the
  // same: tokens that are parts of a character are all shown as U+FFFD.
  std::vector<std::vector<std::pair<std::string, float>>> top_logprobs;
  std::vector<int64_t> text_offset;  // characters of the text before the one it belongs to
};

// How tokens are shown.
struct TokenForm {
  bool skip_special =
      true;             // the text leaves special tokens out; their entries have one all the same
  bool as_ids = false;  // "token_id:42", which no two tokens share
};

// Appends the tokens of one text, in order: their texts, put together, are that text, but for
// special tokens and for characters of several tokens. Copies go on on their own. The tokenizer
// must outlive it.
class LogprobsWriter {
 public:
  LogprobsWriter(const Tokenizer* tokenizer, TokenForm form);

  // Before the first token: the text continues these, and does not hold them.
  void Prime(std::span<const int32_t> ids);
  // An entry with at most `top` of the likeliest; without `logprobs` one of nulls.
  void Append(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
              CompletionLogprobs* out);
  // The same of the token that ended the text, which does not grow by it.
  void AppendEnd(int32_t id, const engine::TokenLogprobs& logprobs, int32_t top,
                 CompletionLogprobs* out);
  // The text so far has so many characters: where it is not its tokens' but was given.
  void set_offset(int64_t characters) { offset_ = characters; }

  // The token as it is shown next.
  std::string TextOf(int32_t id) const;

 private:
  void AppendEntry(int32_t id, const engine::TokenLogprobs* logprobs, int32_t top,
                   CompletionLogprobs* out);
  int64_t Advance(int32_t id);

  const Tokenizer* tokenizer_;
  TokenForm form_;
  TokenDecoderStream stream_;
  std::string pending_;   // the start of a character
  bool at_start_ = true;  // nothing of the text has come yet
  int64_t offset_ = 0;    // characters of the text that are complete
};

}  // namespace strata::server
