// Files that the tokenizer refuses, and the messages.

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/tokenizer.h"
#include "tests/server/tokenizer_testing.h"

namespace strata::server::tokenizer_errors_test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(TokenizerErrorTest, Texts) {
  const auto tokenizer = Make({{"model", CharModel({"a"})}});
  const absl::Status status = tokenizer->Encode("aa\xC3(").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "the text is not UTF-8 at byte 2");
  EXPECT_FALSE(tokenizer->Encode("\xED\xA0\x80").ok()) << "a surrogate";
  EXPECT_FALSE(tokenizer->Encode("\xC0\x80").ok()) << "overlong";
  EXPECT_EQ(tokenizer->Decode(Ids{1}).status().message(), "token id 1 is not in [0, 1)");
  EXPECT_FALSE(tokenizer->Decode(Ids{-1}).ok());
}

TEST(TokenizerErrorTest, FilesThatAreMissingOrBroken) {
  EXPECT_EQ(LoadTokenizer("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Tokenizer::FromJson("{").status().message(),
            "tokenizer.json: not JSON, the error is at byte 2 of 1");
  EXPECT_EQ(Tokenizer::FromJson("3").status().message(),
            "tokenizer.json: document: expected an object, got 3");
  EXPECT_EQ(Tokenizer::FromJson(std::string(100'000, '[')).status().message(),
            "tokenizer.json: JSON nested deeper than the limit of 32");
  const std::string deep = "{\"model\":" + std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(Tokenizer::FromJson(deep + "}").status().message(),
            "tokenizer.json: JSON nested deeper than the limit of 32");
}

// Readers differ in which of the two values they take, and so in the token id.
TEST(TokenizerErrorTest, AKeyThatStandsTwiceIsRefused) {
  EXPECT_EQ(
      Tokenizer::FromJson(R"({"model":{"type":"BPE","vocab":{"a":0,"b":1,"a":2},"merges":[]}})")
          .status()
          .message(),
      "tokenizer.json: key \"a\" twice");
  const std::string model = json{{"model", CharModel({"a"})}}.dump();
  EXPECT_EQ(Tokenizer::FromJson(model, R"({"add_bos_token":false,"add_bos_token":true})")
                .status()
                .message(),
            "tokenizer_config.json: key \"add_bos_token\" twice");
  EXPECT_THAT(
      std::string(Tokenizer::FromJson(R"({"model":{"vocab":{"\ud83d":0}}})").status().message()),
      HasSubstr("a lone surrogate"));
}

TEST(TokenizerErrorTest, FilesThatAreNotTheOnesMeantAreCalledWhatTheyAre) {
  std::string made = (std::filesystem::temp_directory_path() / "strata-test-XXXXXX").string();
  ASSERT_NE(mkdtemp(made.data()), nullptr);
  const std::filesystem::path dir = made;
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n";
  const auto write = [&dir](const char* file, const std::string& text) {
    std::ofstream(dir / file, std::ios::binary) << text;
  };
  const auto error = [&dir] { return std::string(LoadTokenizer(dir).status().message()); };
  const auto is_pointer = [&dir](const char* file) {
    return (dir / file).string() + ": a Git LFS pointer, not the file itself; run git lfs pull";
  };
  write("merges.txt", pointer);
  write("vocab.json", R"({"a":0,"b":1,"ab":2})");
  EXPECT_EQ(error(), is_pointer("merges.txt"));
  write("merges.txt", "\xEF\xBB\xBF#version: 0.2\na b\n");
  EXPECT_EQ(error(), (dir / "merges.txt").string() +
                         ": begins with a byte-order mark; save the file as UTF-8 without one");
  write("merges.txt", "#version: 0.2\na b\n");
  EXPECT_EQ(error(), "");
  write("vocab.json", pointer);
  EXPECT_EQ(error(), is_pointer("vocab.json"));
  write("tokenizer.json", pointer);
  EXPECT_EQ(error(), is_pointer("tokenizer.json"));
  write("tokenizer_config.json", pointer);
  EXPECT_EQ(error(), is_pointer("tokenizer_config.json"));
  std::filesystem::remove_all(dir);
}

TEST(TokenizerErrorTest, Models) {
  json model = CharModel({"a", "b"});
  const auto error = [&](const char* field, const json& value) {
    json changed = model;
    changed[field] = value;
    return MakeError({{"model", changed}});
  };
  EXPECT_EQ(error("type", "Unigram"),
            "tokenizer.json: model.type: expected \"BPE\", got \"Unigram\"");
  EXPECT_THAT(error("dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(error("end_of_word_suffix", "</w>"), HasSubstr("model.end_of_word_suffix"));
  EXPECT_THAT(error("continuing_subword_prefix", "##"),
              HasSubstr("model.continuing_subword_prefix"));
  EXPECT_EQ(error("vocab", {{"a", -1}}),
            "tokenizer.json: model.vocab.a: expected a whole number from 0 to 16777215, got -1");
  EXPECT_EQ(error("vocab", {{"a", 1}, {"b", 1}}),
            "tokenizer.json: model.vocab.b: id 1 belongs to another token");
  EXPECT_EQ(error("merges", {"a b"}),
            "tokenizer.json: model.merges[0]: token \"ab\" is not in the vocabulary");
  EXPECT_EQ(error("merges", {"ab"}),
            "tokenizer.json: model.merges[0]: expected \"a b\" or "
            "[\"a\", \"b\"], got \"ab\"");
}

TEST(TokenizerErrorTest, Steps) {
  const auto error = [](const char* field, const json& value) {
    return MakeError({{"model", CharModel({"a"})}, {field, value}});
  };
  EXPECT_EQ(
      error("normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Precompiled"}}}}}),
      "tokenizer.json: normalizer.normalizers[0].type: expected a supported normalizer, got "
      "\"Precompiled\"");
  EXPECT_THAT(error("pre_tokenizer", {{"type", "UnicodeScripts"}}),
              HasSubstr("pre_tokenizer.type: expected a supported pre-tokenizer"));
  EXPECT_THAT(error("pre_tokenizer", Split({{"Regex", "(a"}}, "Isolated")),
              HasSubstr("pre_tokenizer.pattern.Regex: pattern (a: missing closing parenthesis"));
  EXPECT_THAT(error("pre_tokenizer", Split({{"Regex", "[a&&b]"}}, "Isolated")),
              HasSubstr("an intersection of character classes at offset 2"));
  EXPECT_THAT(error("pre_tokenizer", Split({{"String", "a"}}, "Dropped")),
              HasSubstr("pre_tokenizer.behavior"));
  EXPECT_THAT(error("decoder", {{"type", "WordPiece"}}), HasSubstr("decoder.type"));
  EXPECT_THAT(error("post_processor", {{"type", "BertProcessing"}}),
              HasSubstr("post_processor.type"));
  EXPECT_THAT(error("added_tokens", {{{"id", 5}, {"content", "a"}}}),
              HasSubstr("id 5 of \"a\" contradicts model.vocab"));
  EXPECT_THAT(error("version", "2.0"), HasSubstr("version"));
  EXPECT_EQ(MakeError({{"model", CharModel({"a"})}}, {{"bos_token", "<s>"}}),
            "tokenizer_config.json: bos_token: expected a token of the vocabulary, got \"<s>\"");
}

TEST(TokenizerErrorTest, NestingIsBounded) {
  json normalizer = {{"type", "NFC"}};
  for (int i = 0; i < 100; ++i) {
    normalizer = {{"type", "Sequence"}, {"normalizers", json::array({normalizer})}};
  }
  EXPECT_THAT(MakeError({{"model", CharModel({"a"})}, {"normalizer", normalizer}}),
              HasSubstr("JSON nested deeper than the limit of 32"));
}

TEST(TokenizerErrorTest, APatternThatBacktracksWithoutEndIsGivenUp) {
  const json split = Split({{"Regex", "(?:a|aa)+[bc]"}}, "Isolated");
  const auto tokenizer = Make({{"model", CharModel({"a"})}, {"pre_tokenizer", split}});
  const absl::Status status = tokenizer->Encode(std::string(1000, 'a')).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("gave up at byte 0"));
}

TEST(TokenizerErrorTest, ReplacementsThatGrowWithoutEndAreRefused) {
  const json step = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(100, 'a')}};
  const json normalizer = {{"type", "Sequence"}, {"normalizers", json(20, step)}};
  const auto tokenizer = Make({{"model", CharModel({"a"})}, {"normalizer", normalizer}});
  EXPECT_EQ(tokenizer->Encode("a").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace strata::server::tokenizer_errors_test
