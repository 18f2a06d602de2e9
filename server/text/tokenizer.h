#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/model_source.h"

namespace strata::server {

class TokenDecoder;

struct EncodeOptions {
  bool add_special_tokens = true;  // tokens that the tokenizer puts around a text: BOS and the like
  bool parse_special = true;       // special tokens written in the text become their ids
  // Drops the text's first tokens, after the special tokens in front of it, so that no more than
  // these are left; 0: keeps all.
  size_t most_tokens = 0;
};

// Text to token ids and back, with the ids of the Hugging Face `tokenizers` library for the same
// files. Models: byte-pair encoding, byte-level or in the manner of SentencePiece.
//
//   text ─► added tokens ─► normalizer ─► added tokens ─► pre-tokenizer ─► merges ─► BOS, EOS ─►
//   ids
//           (as written)                  (normalized)
//
// Immutable; every method may be called from any thread.
//
//   absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Make(*source->Tokenizer());
//   if (!tokenizer.ok()) return tokenizer.status();
//   absl::StatusOr<std::vector<int32_t>> ids = (*tokenizer)->Encode("Once upon a time");
//   absl::StatusOr<std::string> text = (*tokenizer)->Decode(*ids);  // "Once upon a time"
class Tokenizer {
 public:
  // tokenizer_config.json may name bos_token and eos_token; its add_bos_token and add_eos_token, if
  // given, override tokenizer.json for these two. INVALID_ARGUMENT with one line "file: field: the
  // error" if the tokenizer cannot be used. A model without files gets one of its own
  // (shape_tokenizer.h).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(
      const engine::TokenizerDescription& description);

  // As Make, from the contents of the files; an empty config is none.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      std::string_view tokenizer_json, std::string_view tokenizer_config_json = {});

  ~Tokenizer();

  // Time is at worst n log n in the text's length. INVALID_ARGUMENT for a text that is not UTF-8,
  // with the offset of the first wrong byte, that is too long, or on which a pattern of the
  // tokenizer would backtrack without end.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  // The text of `ids`. It may be invalid UTF-8 if the ids begin or end within a character, or make
  // no sense together; see Detokenizer. INVALID_ARGUMENT for an id out of [0, vocab_size()).
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special = true) const;

  int32_t vocab_size() const;  // the highest id plus one; ids below may be no token
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  bool IsSpecial(int32_t id) const;
  std::optional<int32_t> TokenToId(std::string_view token) const;

  // The token as the vocabulary spells it, "Ġtime"; empty if no token has this id. Valid as long as
  // the tokenizer.
  std::string_view TokenText(int32_t id) const;

  // tokenizer_config.json as it was read; empty if there is none.
  const std::string& config() const;

  // Turns such token texts into text.
  const TokenDecoder& decoder() const;

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

  std::unique_ptr<const Parts> parts_;
};

}  // namespace strata::server
