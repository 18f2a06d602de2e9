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

// Appends the tokens of one sequence, in order. The tokenizer must outlive it.
class LogprobsWriter {
 public:
  explicit LogprobsWriter(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  void Append(int32_t id, const engine::TokenLogprobs* logprobs, CompletionLogprobs* out);

 private:
  std::string TextOf(int32_t id) const;

  const Tokenizer* tokenizer_;
  int64_t offset_ = 0;
};

}  // namespace strata::server
