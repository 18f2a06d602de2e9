#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/json.h"

namespace strata::server {

// Spells tokens as text: the field `decoder` of a tokenizer.json, a chain of steps. Up to the step
// that joins the tokens (Fuse, ByteLevel) a step sees one token, after it the whole text.
// Immutable; any thread.
class TokenDecoder {
 public:
  // One step on one token.
  class TokenStep {
   public:
    virtual ~TokenStep() = default;
    virtual void Apply(bool is_first, std::string* token) const = 0;
  };
  // Removes up to `start` copies of `content` in front and up to `stop` at the end.
  struct Strip {
    std::string content;
    size_t start = 0;
    size_t stop = 0;
  };

  // ByteFallback, ByteLevel, Fuse, Metaspace, Replace (of a string), Strip or Sequence; after Fuse
  // or ByteLevel only Fuse or Strip. INVALID_ARGUMENT names any other. A `root` without a decoder
  // joins the tokens with spaces.
  static absl::StatusOr<TokenDecoder> FromJson(JsonReader root);

 private:
  friend class TokenDecoderStream;

  TokenDecoder() = default;
  void AddSteps(JsonReader object);

  std::vector<std::unique_ptr<const TokenStep>> token_steps_;
  bool joined_ = false;  // while reading: whether the steps so far join the tokens
  std::vector<Strip> text_steps_;
  std::string separator_;
};

// Decodes the tokens of one sequence as they come. Its pieces, put together, are the decoded text;
// unlike in the reference implementation bytes that are not UTF-8 stay unchanged. One
// thread. The decoder must outlive it.
class TokenDecoderStream {
 public:
  explicit TokenDecoderStream(const TokenDecoder& decoder);

  // Appends to `*out` the settled part of the text that `token` adds.
  void Push(std::string_view token, std::string* out);
  // Appends the rest. Call once, after the last token.
  void Finish(std::string* out);

 private:
  // A Strip of the whole text.
  struct StripState {
    size_t start_left;
    std::string held;  // may yet be stripped
  };

  void PushText(size_t step, std::string text, std::string* out);

  const TokenDecoder& decoder_;
  bool is_first_ = true;
  std::vector<StripState> states_;  // one for each of decoder_.text_steps_
};

}  // namespace strata::server
