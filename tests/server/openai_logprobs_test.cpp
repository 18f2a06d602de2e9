#include "server/openai/openai_logprobs.h"

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "server/base/unicode.h"
#include "server/text/byte_level.h"
#include "tests/server/tokenizer_testing.h"

namespace strata::server::openai_logprobs_test {
namespace {

// As in SentencePiece: a token begins with its space, and decoding removes the first space.
std::unique_ptr<Tokenizer> SpacedTokenizer() {
  const nlohmann::json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
  const nlohmann::json spaces = {
      {"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  return Make({{"version", "1.0"},
               {"model", CharModel({"<s>", "▁", "o", "n", "é"})},
               {"decoder",
                {{"type", "Sequence"},
                 {"decoders", {spaces, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}, strip}}}},
               {"added_tokens", {{{"id", 0}, {"content", "<s>"}, {"special", true}}}}});
}

// Writes logprobs of `ids`, whose text continues `before`.
CompletionLogprobs Write(const Tokenizer& tokenizer, const Ids& before, const Ids& ids) {
  LogprobsWriter writer(&tokenizer, {});
  writer.Prime(before);
  CompletionLogprobs written;
  for (const int32_t id : ids) writer.Append(id, nullptr, 0, &written);
  return written;
}

TEST(OpenAiLogprobsTest, TokensPutTogetherAreTheTextThatTheyContinue) {
  const auto tokenizer = SpacedTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  const CompletionLogprobs written = Write(*tokenizer, {2}, {1, 2, 4, 1, 3});
  EXPECT_EQ(absl::StrJoin(written.tokens, ""), " oé n");
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(OpenAiLogprobsTest, AtTheStartOfATextTheFirstSpaceIsTakenOffAndSpecialTokensTakeNoRoom) {
  const auto tokenizer = SpacedTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  const CompletionLogprobs written = Write(*tokenizer, {}, {0, 1, 2, 1, 3});
  EXPECT_EQ(absl::StrJoin(written.tokens, "|"), "<s>||o| |n");
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 0, 0, 1, 2}));
}

TEST(OpenAiLogprobsTest, SpecialTokensThatTheTextShowsTakeRoom) {
  const auto tokenizer = SpacedTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  LogprobsWriter writer(tokenizer.get(), {.skip_special = false});
  CompletionLogprobs written;
  for (const int32_t id : {2, 0, 3}) writer.Append(id, nullptr, 0, &written);
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 1, 4}));
  writer.AppendEnd(0, {.logprob = -1, .rank = 1, .top = {}}, 0, &written);
  writer.AppendEnd(0, {.logprob = -1, .rank = 1, .top = {}}, 0, &written);
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 1, 4, 5, 5}));
}

// The place of the character that the byte belongs to, counted over the whole text.
int64_t PlaceOf(const std::string& bytes, size_t byte) {
  int64_t place = 0;
  for (size_t begin = 0; begin < bytes.size(); ++place) {
    begin += ReadUtf8(bytes, begin).size;
    if (byte < begin) break;
  }
  return place;
}

// Tokens that are bytes and parts of characters, in any order, even if they are no UTF-8.
TEST(OpenAiLogprobsTest, OffsetsArePlacesOfCharactersWhateverTheTokens) {
  const std::vector<std::string> pieces = {"a",        "\xF0",     "\x9F\x98", "\x80",
                                           "\xF0\x9F", "\x98\x80", "\xC3",     "\xA9",
                                           "b\xC3",    "\xA9z",    "\xFF",     "\xE2\x82"};
  nlohmann::json model = {
      {"type", "BPE"}, {"vocab", nlohmann::json::object()}, {"merges", nlohmann::json::array()}};
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::string spelled;
    AppendByteLevel(pieces[i], &spelled);
    model["vocab"][spelled] = i;
  }
  const auto tokenizer =
      Make({{"version", "1.0"}, {"model", model}, {"decoder", {{"type", "ByteLevel"}}}});
  ASSERT_NE(tokenizer, nullptr);
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Ids ids(1 + random() % 12);
    std::string bytes;
    std::vector<size_t> begins;
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random() % pieces.size());
      begins.push_back(bytes.size());
      bytes += pieces[static_cast<size_t>(id)];
    }
    const CompletionLogprobs written = Write(*tokenizer, {}, ids);
    for (size_t i = 0; i < ids.size(); ++i) {
      ASSERT_EQ(written.text_offset[i], PlaceOf(bytes, begins[i]))
          << "round " << round << " at " << i;
    }
  }
}

}  // namespace
}  // namespace strata::server::openai_logprobs_test
