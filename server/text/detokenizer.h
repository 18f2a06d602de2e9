#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "server/text/token_decoder.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// Turns a stream of ids into text that is valid UTF-8 in each piece: the bytes of an unfinished
// character are held back until it is complete, and U+FFFD replaces bytes that can never become
// valid. The pieces put together are Decode() of all ids, invalid sequences replaced. Ids that are
// no token, which a model with a padded vocabulary can produce, add nothing. One for each sequence,
// one thread; the tokenizer must outlive it.
//
//   Detokenizer detokenizer(&tokenizer);
//   while (...) Send(detokenizer.Append(new_ids));
//   Send(detokenizer.Finish());
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer* tokenizer, bool skip_special = true);

  // Reads ids whose text is already known, for example a prompt's, so that later text continues it:
  // a word in mid-sentence keeps its space. Call before the first Append.
  void Prime(std::span<const int32_t> ids);

  // The text that `ids` complete; may be empty.
  std::string Append(std::span<const int32_t> ids);

  // The rest. Call once, after the last id.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  TokenDecoderStream stream_;
  std::string pending_;  // the start of a character
};

}  // namespace strata::server
