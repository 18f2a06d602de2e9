#include "server/text/detokenizer.h"

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/unicode.h"

namespace strata::server::detokenizer_test {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

// A tokenizer of bytes "<0x00>" to "<0xFF>" with their values as ids, `tokens` from 256 on, and a
// special token "<s>" after them.
std::unique_ptr<Tokenizer> ByteTokenizer(const std::vector<std::string>& tokens,
                                         const json& decoder) {
  json vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    vocabulary[std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">"] = byte;
  }
  int32_t id = 256;
  for (const std::string& token : tokens) vocabulary[token] = id++;
  json tokenizer;
  tokenizer["model"] = {{"vocab", vocabulary}, {"merges", json::array()}, {"byte_fallback", true}};
  tokenizer["added_tokens"] = json::array({{{"id", id}, {"content", "<s>"}, {"special", true}}});
  tokenizer["decoder"] = decoder;
  auto made = Tokenizer::FromJson(tokenizer.dump());
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// The decoder of SentencePiece-style tokenizers: spaces, bytes, and no space in front.
json SentencePieceDecoder() {
  const json spaces = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  return {{"type", "Sequence"},
          {"decoders", {spaces, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}};
}

json Sequence(const std::vector<json>& steps) {
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// Feeds the ids one by one; every piece is valid UTF-8.
std::string Stream(const Tokenizer& tokenizer, const Ids& ids) {
  Detokenizer detokenizer(&tokenizer);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = detokenizer.Append({&id, 1});
    EXPECT_FALSE(FindInvalidUtf8(piece).has_value());
    text += piece;
  }
  return text + detokenizer.Finish();
}

std::string DecodeValid(const Tokenizer& tokenizer, const Ids& ids) {
  std::string bytes = *tokenizer.Decode(ids);
  std::string text;
  TakeValidUtf8(/*at_end=*/true, &bytes, &text);
  return text;
}

Ids Bytes(std::string_view text) {
  Ids ids;
  for (const char byte : text) ids.push_back(static_cast<uint8_t>(byte));
  return ids;
}

TEST(DetokenizerTest, HoldsBackTheBytesOfAnUnfinishedCharacter) {
  const auto tokenizer = ByteTokenizer({"a"}, {{"type", "ByteFallback"}});
  Detokenizer detokenizer(tokenizer.get());
  const Ids emoji = Bytes("😶");
  EXPECT_EQ(detokenizer.Append(Ids{256}), "a");
  EXPECT_EQ(detokenizer.Append({&emoji[0], 1}), "");
  EXPECT_EQ(detokenizer.Append({&emoji[1], 2}), "");
  EXPECT_EQ(detokenizer.Append({&emoji[3], 1}), "😶");
  EXPECT_EQ(detokenizer.Append({}), "");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST(DetokenizerTest, InvalidBytesAreReplacedOnceForEachStartOfACharacter) {
  const auto tokenizer = ByteTokenizer({"a"}, {{"type", "ByteFallback"}});
  EXPECT_EQ(Stream(*tokenizer, Bytes("\xFF")), "\uFFFD");
  EXPECT_EQ(Stream(*tokenizer, Bytes("\xF0\x9F\x98")), "\uFFFD") << "at the end";
  EXPECT_EQ(Stream(*tokenizer, Bytes("\xF0\x9F\x98"
                                     "b")),
            "\uFFFDb");
  EXPECT_EQ(Stream(*tokenizer, Bytes("\xE2\x82\xE2\x82\xAC")), "\uFFFD€");
  EXPECT_EQ(Stream(*tokenizer, Bytes("\xED\xA0\x80")), "\uFFFD\uFFFD\uFFFD") << "a surrogate";
  EXPECT_EQ(Stream(*tokenizer, Bytes("\x80\xC0\x80")), "\uFFFD\uFFFD\uFFFD");
  Detokenizer detokenizer(tokenizer.get());
  EXPECT_EQ(detokenizer.Append(Bytes("\xE2\x28")), "\uFFFD(") << "as soon as it is certain";
}

TEST(DetokenizerTest, AnyBytesStreamAsTheyDecode) {
  const std::vector<json> decoders = {
      SentencePieceDecoder(),
      {{"type", "ByteFallback"}},
      {{"type", "ByteLevel"}},
      {{"type", "Metaspace"}, {"replacement", "▁"}},
      nullptr,
      Sequence({{{"type", "ByteFallback"}},
                {{"type", "Fuse"}},
                {{"type", "Strip"}, {"content", "é"}, {"start", 2}, {"stop", 2}}}),
      Sequence({{{"type", "Fuse"}},
                {{"type", "Strip"}, {"content", "a"}, {"start", 1}, {"stop", 3}},
                {{"type", "Strip"}, {"content", "é"}, {"start", 1}, {"stop", 0}}}),
  };
  std::mt19937 random(2);
  for (const json& decoder : decoders) {
    const auto tokenizer = ByteTokenizer({"a", "▁a", "▁", "é", "aa", "Ġ", "🤚", ""}, decoder);
    for (int round = 0; round < 500; ++round) {
      Ids ids;
      for (auto i = random() % 12; i > 0; --i) {
        const bool byte = random() % 2 == 0;
        ids.push_back(static_cast<int32_t>(byte ? 0x80 + random() % 128 : 256 + random() % 9));
        if (random() % 4 == 0) {
          const Ids text = Bytes("éé");
          ids.insert(ids.end(), text.begin(), text.end());
        }
      }
      EXPECT_EQ(Stream(*tokenizer, ids), DecodeValid(*tokenizer, ids)) << decoder << json(ids);
    }
  }
}

TEST(DetokenizerTest, StripsTheFrontOfTheTextAlone) {
  const auto tokenizer = ByteTokenizer({"▁a", "▁"}, SentencePieceDecoder());
  EXPECT_EQ(Stream(*tokenizer, {256, 256}), "a a");
  EXPECT_EQ(Stream(*tokenizer, {257, 256}), " a");
  EXPECT_EQ(Stream(*tokenizer, {}), "");
}

TEST(DetokenizerTest, StripsTheEnd) {
  const json strip = {{"type", "Strip"}, {"content", "a"}, {"start", 0}, {"stop", 2}};
  const auto tokenizer = ByteTokenizer({"a", "b"}, Sequence({{{"type", "Fuse"}}, strip}));
  EXPECT_EQ(Stream(*tokenizer, {257, 256, 256, 256}), "ba");
  EXPECT_EQ(Stream(*tokenizer, {256, 257}), "ab");
  EXPECT_EQ(Stream(*tokenizer, {256}), "");
}

TEST(DetokenizerTest, APromptLetsTheTextContinue) {
  const auto tokenizer = ByteTokenizer({"▁a"}, SentencePieceDecoder());
  Detokenizer detokenizer(tokenizer.get());
  detokenizer.Prime(Ids{256, 0xC3});
  EXPECT_EQ(detokenizer.Append(Ids{0xA9, 256}), "é a");
}

TEST(DetokenizerTest, SpecialTokensAndIdsThatAreNone) {
  const auto tokenizer = ByteTokenizer({"a"}, {{"type", "Fuse"}});
  EXPECT_EQ(Stream(*tokenizer, {256, 257, 256}), "aa");
  EXPECT_EQ(Stream(*tokenizer, {256, -1, 9999, 256}), "aa");
  Detokenizer all(tokenizer.get(), /*skip_special=*/false);
  EXPECT_EQ(all.Append(Ids{256, 257}), "a<s>");
}

}  // namespace
}  // namespace strata::server::detokenizer_test
