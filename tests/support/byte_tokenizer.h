#pragma once

#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "server/base/unicode.h"

namespace strata::testing {

inline constexpr int32_t kEosId = 0;
inline constexpr int32_t kTinyVocab = 260;  // the last three ids are no token
inline constexpr int32_t kTinyPositions = 512;

// A byte-level tokenizer without merges: id 0 is the end of the text, byte b is id b + 1.
inline std::string ByteTokenizerJson() {
  nlohmann::json vocab = {{"<|end|>", kEosId}};
  char32_t unprintable = 256;
  for (int32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    std::string spelled;
    server::AppendUtf8(printable ? static_cast<char32_t>(byte) : unprintable++, &spelled);
    vocab[spelled] = byte + 1;
  }
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", true}};
  const nlohmann::json end = {{"id", kEosId},    {"content", "<|end|>"}, {"single_word", false},
                              {"lstrip", false}, {"rstrip", false},      {"normalized", false},
                              {"special", true}};
  return nlohmann::json{
      {"version", "1.0"},
      {"added_tokens", {end}},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level},
      {"post_processor", nullptr},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}}
      .dump();
}

}  // namespace strata::testing
