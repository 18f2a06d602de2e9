#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/types.h"
#include "server/tokenizer.h"

namespace strata::server {

// OpenAI's `logprobs` of a completion: parallel lists, an entry a token.
struct CompletionLogprobs {
  std::vector<std::string> tokens;                   // as text
  std::vector<std::optional<float>> token_logprobs;  // null for the prompt's first
  // The likeliest, and the token itself where it is none of them.
  std::vector<std::vector<std::pair<std::string, float>>> top_logprobs;
  std::vector<int64_t> text_offset;  // characters of the text before it
};

// Appends the tokens of one text, in order: their texts, put together, are that text, but for
// special tokens, which have a text here and none there. The tokenizer must outlive it.
class LogprobsWriter {
 public:
  // `at_start`: the first token begins the text, and does not go on with one.
  LogprobsWriter(const Tokenizer* tokenizer, bool at_start)
      : tokenizer_(tokenizer), at_start_(at_start) {}
  void Append(int32_t id, const engine::TokenLogprobs* logprobs, CompletionLogprobs* out);

 private:
  std::string TextOf(int32_t id) const;

  const Tokenizer* tokenizer_;
  bool at_start_;       // nothing of the text has come yet
  int64_t offset_ = 0;  // of the next token
};

}  // namespace strata::server
