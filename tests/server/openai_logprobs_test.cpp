#include "server/openai_logprobs.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/server/tokenizer_testing.h"

namespace strata::server::openai_logprobs_test {
namespace {

// In the manner of SentencePiece: a token begins with its space, and decoding takes the first off.
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

CompletionLogprobs Write(const Tokenizer& tokenizer, const Ids& ids, bool at_start) {
  LogprobsWriter writer(&tokenizer, at_start);
  CompletionLogprobs written;
  for (const int32_t id : ids) writer.Append(id, nullptr, &written);
  return written;
}

TEST(OpenAiLogprobsTest, TokensPutTogetherAreTheTextThatTheyContinue) {
  const auto tokenizer = SpacedTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  const CompletionLogprobs written = Write(*tokenizer, {1, 2, 4, 1, 3}, /*at_start=*/false);
  EXPECT_EQ(absl::StrJoin(written.tokens, ""), " oé n");
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(OpenAiLogprobsTest, AtTheStartOfATextTheFirstSpaceIsTakenOffAndSpecialTokensTakeNoRoom) {
  const auto tokenizer = SpacedTokenizer();
  ASSERT_NE(tokenizer, nullptr);
  const CompletionLogprobs written = Write(*tokenizer, {0, 1, 2, 1, 3}, /*at_start=*/true);
  EXPECT_EQ(absl::StrJoin(written.tokens, "|"), "<s>||o| |n");
  EXPECT_EQ(written.text_offset, (std::vector<int64_t>{0, 0, 0, 1, 2}));
}

}  // namespace
}  // namespace strata::server::openai_logprobs_test
