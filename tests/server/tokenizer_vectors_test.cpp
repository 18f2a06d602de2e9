// Published tokenizers and our own, against known ids.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/tokenizer.h"
#include "tests/server/tokenizer_testing.h"

namespace strata::server::tokenizer_vectors_test {
namespace {

using nlohmann::json;
using testing::ElementsAre;

std::filesystem::path DataDir() {
  const char* dir = std::getenv("STRATA_TEST_DATA");
  return dir != nullptr ? dir : std::filesystem::path(STRATA_SOURCE_DIR) / ".." / "shared" / "data";
}

// llama.cpp's vectors: texts that end in "\n__ggml_vocab_test__\n", and for each a line of ids,
// made without BOS.
void CheckVectors(const std::string& tokenizer_name, const std::string& vectors) {
  const std::filesystem::path dir = DataDir() / "tokenizers";
  if (!std::filesystem::exists(dir / (vectors + ".inp"))) GTEST_SKIP() << "no data in " << dir;
  const auto tokenizer = LoadTokenizer(dir / tokenizer_name);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();

  const std::string input = ReadFile(dir / (vectors + ".inp"));
  std::istringstream output(ReadFile(dir / (vectors + ".out")));
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  size_t begin = 0;
  int count = 0;
  for (size_t end = input.find(kSeparator); end != std::string::npos;
       end = input.find(kSeparator, begin)) {
    const std::string text = input.substr(begin, end - begin);
    begin = end + kSeparator.size();
    std::string line;
    ASSERT_TRUE(std::getline(output, line));
    std::istringstream numbers(line);
    const Ids expected{std::istream_iterator<int32_t>(numbers), std::istream_iterator<int32_t>()};
    const auto ids = (*tokenizer)->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected) << json(text);
    EXPECT_EQ(*(*tokenizer)->Decode(*ids), text);
    ++count;
  }
  EXPECT_EQ(begin, input.size());
  EXPECT_EQ(count, 46);
}

TEST(PublishedTokenizerTest, Gpt2Vectors) { CheckVectors("gpt2", "gpt-2"); }
TEST(PublishedTokenizerTest, Phi3Vectors) { CheckVectors("phi-3-mini", "phi-3"); }

TEST(PublishedTokenizerTest, Gpt2Files) {
  const std::filesystem::path dir = DataDir() / "tokenizers" / "gpt2";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no " << dir;
  const auto tokenizer = LoadTokenizer(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 50257);
  EXPECT_EQ((*tokenizer)->bos_id(), 50256);
  EXPECT_EQ((*tokenizer)->eos_id(), 50256);
  EXPECT_TRUE((*tokenizer)->IsSpecial(50256));
  EXPECT_EQ((*tokenizer)->TokenText(262), "Ġthe");
  EXPECT_THAT(*(*tokenizer)->Encode("a<|endoftext|>b"), ElementsAre(64, 50256, 65));
  EXPECT_EQ((*tokenizer)->Encode("a<|endoftext|>b", {.parse_special = false})->size(), 9u);
}

TEST(PublishedTokenizerTest, Phi2FindsRunsOfSpaces) {
  const std::filesystem::path dir = DataDir() / "tokenizers" / "phi-2";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no " << dir;
  const auto tokenizer = LoadTokenizer(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 50295);
  EXPECT_THAT(*(*tokenizer)->Encode("a    b"), ElementsAre(64, 50284, 65));
  EXPECT_EQ(*(*tokenizer)->Decode(Ids{64, 50284, 65}), "a    b");
}

TEST(PublishedTokenizerTest, TinyStoriesHasNoByteTokens) {
  const std::filesystem::path dir = DataDir() / "models" / "tinystories-656k";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no " << dir;
  const auto tokenizer = LoadTokenizer(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 2048);
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  const Ids ids = *(*tokenizer)->Encode("Once upon a time");
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(*(*tokenizer)->Decode(ids), "Once upon a time");
  const EncodeOptions plain{.add_special_tokens = false};
  const Ids unknown = *(*tokenizer)->Encode("🤚🏽", plain);
  EXPECT_EQ(std::count(unknown.begin(), unknown.end(), 0), 1) << "fuse_unk joins two to one";
}

TEST(ProjectTokenizerTest, Vectors) {
  const std::filesystem::path source = STRATA_SOURCE_DIR;
  const std::filesystem::path vectors = source / "tests" / "golden" / "tokenizer_vectors.json";
  ASSERT_TRUE(std::filesystem::exists(vectors)) << vectors;
  const auto tokenizer = LoadTokenizer(source / "deploy" / "models" / "svformer");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 2048);
  const json cases = json::parse(ReadFile(vectors));
  ASSERT_FALSE(cases.empty());
  for (const json& vector : cases) {
    const std::string text = vector["text"];
    const auto ids = (*tokenizer)->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, vector["ids"].get<Ids>()) << vector["text"];
  }
}

}  // namespace
}  // namespace strata::server::tokenizer_vectors_test
