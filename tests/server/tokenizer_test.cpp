#include "server/text/tokenizer.h"

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/base/unicode.h"
#include "tests/server/tokenizer_testing.h"

namespace strata::server::tokenizer_test {
namespace {

using nlohmann::json;
using testing::ElementsAre;

// The pieces that `pre_tokenizer` makes of a text. Every piece in `known` is a token, which
// ignore_merges takes whole; "?" stands for any other.
std::vector<std::string> Pieces(const json& pre_tokenizer, std::string_view text,
                                const std::vector<std::string>& known) {
  json model = CharModel(known);
  model["vocab"]["?"] = known.size();
  model["unk_token"] = "?";
  model["ignore_merges"] = true;
  const auto tokenizer = Make({{"model", model}, {"pre_tokenizer", pre_tokenizer}});
  const auto ids = tokenizer->Encode(text);
  EXPECT_TRUE(ids.ok()) << ids.status();
  std::vector<std::string> pieces;
  for (const int32_t id : *ids) pieces.emplace_back(tokenizer->TokenText(id));
  return pieces;
}

// A text after `normalizer`, by a model whose tokens are single characters.
std::string Normalized(const json& normalizer, std::string_view text,
                       const std::vector<std::string>& characters) {
  json tokenizer = {{"model", CharModel(characters)}, {"normalizer", normalizer}};
  tokenizer["decoder"] = {{"type", "Fuse"}};
  const auto made = Make(tokenizer);
  return *made->Decode(*made->Encode(text));
}

// ---------------------------------------------------------------------------------------------
// Merges.

TEST(BpeTest, EarlierMergesComeFirstAndLeftmostAmongEquals) {
  json model = CharModel({"a", "b", "c", "ab", "bc", "aa"});
  model["merges"] = {"b c", "a b", json::array({"a", "a"})};
  const auto tokenizer = Make({{"model", model}});
  EXPECT_THAT(*tokenizer->Encode("abc"), ElementsAre(0, 4));
  EXPECT_THAT(*tokenizer->Encode("aaa"), ElementsAre(5, 0));
  EXPECT_THAT(*tokenizer->Encode("aab"), ElementsAre(0, 3));
  EXPECT_THAT(*tokenizer->Encode(""), ElementsAre());
}

TEST(BpeTest, IgnoreMergesTakesAWordThatIsAToken) {
  json model = CharModel({"a", "b", "ab"});
  EXPECT_THAT(*Make({{"model", model}})->Encode("ab"), ElementsAre(0, 1));
  model["ignore_merges"] = true;
  EXPECT_THAT(*Make({{"model", model}})->Encode("ab"), ElementsAre(2));
}

TEST(BpeTest, UnknownCharacters) {
  json model = CharModel({"?", "a", "<0xC3>", "<0xA9>"});
  EXPECT_THAT(*Make({{"model", model}})->Encode("zaz"), ElementsAre(1)) << "dropped";
  model["unk_token"] = "?";
  EXPECT_THAT(*Make({{"model", model}})->Encode("yza"), ElementsAre(0, 0, 1));
  model["fuse_unk"] = true;
  EXPECT_THAT(*Make({{"model", model}})->Encode("yzaz"), ElementsAre(0, 1, 0));
  model["byte_fallback"] = true;
  EXPECT_THAT(*Make({{"model", model}})->Encode("aé"), ElementsAre(1, 2, 3));
  EXPECT_THAT(*Make({{"model", model}})->Encode("aè"), ElementsAre(1, 0)) << "no <0xA8>";
  model["unk_token"] = "missing";
  EXPECT_EQ(Make({{"model", model}})->Encode("z").status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(BpeTest, LongWordsFinish) {
  json model = CharModel({"a", "aa", "aaaa", "▁", "▁▁"});
  model["merges"] = {"a a", "aa aa", "▁ ▁"};
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  const auto tokenizer = Make({{"model", model}, {"normalizer", replace}});
  constexpr size_t kLength = 1 << 20;
  EXPECT_EQ(*tokenizer->Encode(std::string(kLength, 'a')), Ids(kLength / 4, 2));
  EXPECT_EQ(*tokenizer->Encode(std::string(kLength, ' ')), Ids(kLength / 2, 4));
}

// ---------------------------------------------------------------------------------------------
// Byte-level.

json ByteLevelTokenizer(bool use_regex, bool add_prefix_space) {
  const json byte_level = {
      {"type", "ByteLevel"}, {"use_regex", use_regex}, {"add_prefix_space", add_prefix_space}};
  // GPT-2's alphabet: printable bytes are themselves, the others follow U+00FF.
  json vocabulary;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    std::string text;
    AppendUtf8(static_cast<char32_t>(printable ? byte : next++), &text);
    vocabulary[text] = byte;
  }
  vocabulary["Ġa"] = 256;
  const json model = {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"Ġ a"}}};
  return {{"model", model}, {"pre_tokenizer", byte_level}, {"decoder", byte_level}};
}

TEST(ByteLevelTest, EachByteIsATokenAndSpacesJoinWords) {
  const auto tokenizer = Make(ByteLevelTokenizer(true, false));
  EXPECT_THAT(*tokenizer->Encode("a aé"), ElementsAre('a', 256, 0xC3, 0xA9));
  EXPECT_THAT(*tokenizer->Encode("a  a"), ElementsAre('a', ' ', 256)) << "the last space joins";
  EXPECT_THAT(*Make(ByteLevelTokenizer(true, true))->Encode("a a"), ElementsAre(256, 256));
  EXPECT_THAT(*Make(ByteLevelTokenizer(true, true))->Encode(" a"), ElementsAre(256));
}

TEST(ByteLevelTest, AnyTextComesBack) {
  const auto tokenizer = Make(ByteLevelTokenizer(true, false));
  std::mt19937 random(1);
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (auto i = random() % 30; i > 0; --i) {
      constexpr int kBits[] = {7, 8, 11, 15, 20};
      const auto c = static_cast<char32_t>(random() % (1u << kBits[random() % 5]));
      if (c < 0xD800 || c > 0xDFFF) AppendUtf8(c, &text);
    }
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*tokenizer->Decode(*ids), text);
  }
}

// ---------------------------------------------------------------------------------------------
// Pre-tokenizers.

TEST(PreTokenizerTest, SplitBehaviors) {
  const std::vector<std::string> known = {"the",  "final",  "countdown", "-",         "--",
                                          "the-", "final-", "-final",    "-countdown"};
  const auto pieces = [&](std::string_view behavior, bool invert = false) {
    return Pieces(Split({{"String", "-"}}, behavior, invert), "the-final--countdown", known);
  };
  EXPECT_THAT(pieces("Removed"), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(pieces("Isolated"), ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(pieces("MergedWithPrevious"), ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(pieces("MergedWithNext"), ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(pieces("Contiguous"), ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(pieces("Removed", /*invert=*/true), ElementsAre("-", "-", "-"));
}

TEST(PreTokenizerTest, SplitByRegexReadsOniguruma) {
  const std::vector<std::string> known = {"12",     "1234", "34",      "56", "a",
                                          "\u180e", "\n",   "a\u0301", "ééé"};
  const auto pieces = [&](std::string_view regex, std::string_view text) {
    return Pieces(Split({{"Regex", regex}}, "Isolated"), text, known);
  };
  EXPECT_THAT(pieces(R"(\d{1,2})", "123456"), ElementsAre("12", "34", "56"));
  EXPECT_THAT(pieces(R"(\d{2}+)", "1234a"), ElementsAre("1234", "a")) << "not possessive";
  EXPECT_THAT(pieces("é{1,2}+", "éééa"), ElementsAre("ééé", "a"));
  EXPECT_THAT(pieces(R"(\s)", "a\u180e").size(), 2u) << "U+180E is no space";
  EXPECT_THAT(pieces(R"(\w+)", "a\u0301\n"), ElementsAre("a\u0301", "\n")) << "marks are in words";
  EXPECT_THAT(pieces(R"(a$)", "a\na"), ElementsAre("a", "\n", "a")) << "$ ends a line";
}

TEST(PreTokenizerTest, Digits) {
  const std::vector<std::string> known = {"a", "1", "2", "12", "²"};
  const auto pieces = [&](bool individual) {
    return Pieces({{"type", "Digits"}, {"individual_digits", individual}}, "a12a²", known);
  };
  EXPECT_THAT(pieces(true), ElementsAre("a", "1", "2", "a", "²"));
  EXPECT_THAT(pieces(false), ElementsAre("a", "12", "a", "²"));
}

TEST(PreTokenizerTest, Metaspace) {
  const std::vector<std::string> known = {"▁a", "a", "▁", "▁b", "▁a▁b"};
  const auto pieces = [&](std::string_view scheme, bool split, std::string_view text) {
    return Pieces(
        {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", split}},
        text, known);
  };
  EXPECT_THAT(pieces("always", true, "a b"), ElementsAre("▁a", "▁b"));
  EXPECT_THAT(pieces("first", true, "a  b"), ElementsAre("▁a", "▁", "▁b"));
  EXPECT_THAT(pieces("never", true, "a b"), ElementsAre("a", "▁b"));
  EXPECT_THAT(pieces("always", true, " a"), ElementsAre("▁a"));
  EXPECT_THAT(pieces("always", false, "a b"), ElementsAre("▁a▁b"));
}

TEST(PreTokenizerTest, MetaspaceFirstPrependsAtTheStartOfTheTextAlone) {
  json model = CharModel({"▁a", "a", "<s>", "▁"});
  model["ignore_merges"] = true;
  json tokenizer = {{"model", model}};
  tokenizer["added_tokens"] = json::array({{{"id", 2}, {"content", "<s>"}, {"special", true}}});
  tokenizer["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "▁"}};
  EXPECT_THAT(*Make(tokenizer)->Encode("a<s>a"), ElementsAre(0, 2, 0));
  tokenizer["pre_tokenizer"]["prepend_scheme"] = "first";
  EXPECT_THAT(*Make(tokenizer)->Encode("a<s>a"), ElementsAre(0, 2, 1));
  EXPECT_THAT(*Make(tokenizer)->Encode("<s>a"), ElementsAre(2, 1));
}

TEST(PreTokenizerTest, WordsAndPunctuation) {
  const std::vector<std::string> known = {"it", "'", "s", "!?", "!", "?", "it's", "!?!"};
  EXPECT_THAT(Pieces({{"type", "Whitespace"}}, "it's !?", known),
              ElementsAre("it", "'", "s", "!?"));
  EXPECT_THAT(Pieces({{"type", "WhitespaceSplit"}}, " it's\n!?", known), ElementsAre("it's", "!?"));
  EXPECT_THAT(Pieces({{"type", "Punctuation"}}, "it!?", known), ElementsAre("it", "!", "?"));
  const json both = {{"type", "Sequence"},
                     {"pretokenizers", {{{"type", "WhitespaceSplit"}}, {{"type", "Punctuation"}}}}};
  EXPECT_THAT(Pieces(both, "it !", known), ElementsAre("it", "!"));
}

// ---------------------------------------------------------------------------------------------
// Normalizers.

TEST(NormalizerTest, UnicodeForms) {
  const std::vector<std::string> known = {"e", "\u0301", "é", "ﬁ", "f", "i", "\u0327"};
  EXPECT_EQ(Normalized({{"type", "NFC"}}, "e\u0301ﬁ", known), "éﬁ");
  EXPECT_EQ(Normalized({{"type", "NFD"}}, "éﬁ", known), "e\u0301ﬁ");
  EXPECT_EQ(Normalized({{"type", "NFKC"}}, "e\u0301ﬁ", known), "éfi");
  EXPECT_EQ(Normalized({{"type", "NFKD"}}, "éﬁ", known), "e\u0301fi");
  EXPECT_EQ(Normalized({{"type", "NFD"}}, "e\u0301\u0327", known), "e\u0327\u0301") << "ordered";
}

TEST(NormalizerTest, AMegabyteOfUnorderedMarksFinishes) {
  const auto tokenizer = Make({{"model", CharModel({"a"})}, {"normalizer", {{"type", "NFC"}}}});
  std::string text = "a";
  for (int i = 0; i < 1 << 18; ++i) text += "\u0301\u0327";
  EXPECT_TRUE(tokenizer->Encode(text).ok());
}

TEST(NormalizerTest, Rewriting) {
  const std::vector<std::string> known = {"a", "b", "i", "\u0307", " ", "#", "σ", "\u0301"};
  EXPECT_EQ(Normalized({{"type", "Lowercase"}}, "AİΣ", known), "ai\u0307σ");
  EXPECT_EQ(Normalized({{"type", "Prepend"}, {"prepend", "b"}}, "a", known), "ba");
  EXPECT_EQ(Normalized({{"type", "Prepend"}, {"prepend", "b"}}, "", known), "");
  EXPECT_EQ(Normalized({{"type", "Replace"}, {"pattern", {{"String", "ab"}}}, {"content", "#"}},
                       "aabb", known),
            "a#b");
  EXPECT_EQ(Normalized({{"type", "Replace"}, {"pattern", {{"Regex", "[ab]+"}}}, {"content", "#"}},
                       "ab ba", known),
            "# #");
  EXPECT_EQ(Normalized({{"type", "Strip"}}, "\n a b\u3000", known), "a b");
  EXPECT_EQ(Normalized({{"type", "Strip"}, {"strip_left", false}}, " a ", known), " a");
  EXPECT_EQ(Normalized({{"type", "Strip"}, {"strip_right", false}}, " a ", known), "a ");
  EXPECT_EQ(Normalized({{"type", "StripAccents"}}, "a\u0301", known), "a");
}

// ---------------------------------------------------------------------------------------------
// Added tokens.

json WithAdded(const json& options = json::object()) {
  json tokenizer = {{"model", CharModel({"a", "b", " ", "x", "y"})},
                    {"decoder", {{"type", "Fuse"}}}};
  json token = {{"id", 9}, {"content", "xy"}, {"normalized", false}};
  token.update(options);
  tokenizer["added_tokens"] = json::array({token});
  return tokenizer;
}

TEST(AddedTokenTest, OptionsOfWhereItIsFound) {
  EXPECT_THAT(*Make(WithAdded())->Encode("a xy b"), ElementsAre(0, 2, 9, 2, 1));
  EXPECT_THAT(*Make(WithAdded({{"lstrip", true}}))->Encode("a xy b"), ElementsAre(0, 9, 2, 1));
  EXPECT_THAT(*Make(WithAdded({{"rstrip", true}}))->Encode("a xy b"), ElementsAre(0, 2, 9, 1));
  const auto word = Make(WithAdded({{"single_word", true}}));
  EXPECT_THAT(*word->Encode("axy"), ElementsAre(0, 3, 4));
  EXPECT_THAT(*word->Encode("xyb"), ElementsAre(3, 4, 1));
  EXPECT_THAT(*word->Encode("xy a"), ElementsAre(9, 2, 0));
  EXPECT_EQ(word->vocab_size(), 10);
  EXPECT_EQ(word->TokenToId("xy"), 9);
}

TEST(AddedTokenTest, TheLongestWins) {
  json tokenizer = WithAdded();
  tokenizer["added_tokens"].push_back({{"id", 10}, {"content", "xyb"}, {"normalized", false}});
  EXPECT_THAT(*Make(tokenizer)->Encode("xyxyb"), ElementsAre(9, 10));
}

TEST(AddedTokenTest, NormalizedTokensAreFoundInTheNormalizedText) {
  json tokenizer = WithAdded({{"content", "XY"}, {"normalized", true}});
  tokenizer["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(*Make(tokenizer)->Encode("aXyA"), ElementsAre(0, 9, 0));
  tokenizer["added_tokens"][0]["normalized"] = false;
  EXPECT_THAT(*Make(tokenizer)->Encode("aXya"), ElementsAre(0, 3, 4, 0));
  EXPECT_THAT(*Make(tokenizer)->Encode("aXYa"), ElementsAre(0, 9, 0));
}

TEST(AddedTokenTest, SpecialTokens) {
  const auto tokenizer = Make(WithAdded({{"special", true}}));
  EXPECT_TRUE(tokenizer->IsSpecial(9));
  EXPECT_FALSE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_THAT(*tokenizer->Encode("xy", {.parse_special = false}), ElementsAre(3, 4));
  EXPECT_EQ(*tokenizer->Decode(Ids{0, 9, 1}), "ab");
  EXPECT_EQ(*tokenizer->Decode(Ids{0, 9, 1}, /*skip_special=*/false), "axyb");
}

// ---------------------------------------------------------------------------------------------
// BOS and EOS.

json WithTemplate() {
  json tokenizer = {{"model", CharModel({"<s>", "a", "</s>"})}};
  tokenizer["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {{{"type", "ByteLevel"}},
        {{"type", "TemplateProcessing"},
         {"single",
          {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
           {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
         {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<s>"}}}}}}}}}};
  return tokenizer;
}

TEST(PostProcessorTest, TemplateAndConfig) {
  const EncodeOptions plain{.add_special_tokens = false};
  EXPECT_THAT(*Make(WithTemplate())->Encode("a"), ElementsAre(0, 1));
  EXPECT_THAT(*Make(WithTemplate())->Encode("a", plain), ElementsAre(1));

  json config = {{"bos_token", {{"content", "<s>"}}}, {"eos_token", "</s>"}};
  const auto named = Make(WithTemplate(), config);
  EXPECT_EQ(named->bos_id(), 0);
  EXPECT_EQ(named->eos_id(), 2);
  EXPECT_THAT(*named->Encode("a"), ElementsAre(0, 1)) << "names alone change nothing";
  config["add_bos_token"] = false;
  config["add_eos_token"] = true;
  EXPECT_THAT(*Make(WithTemplate(), config)->Encode("a"), ElementsAre(1, 2));
  config["add_bos_token"] = true;
  EXPECT_THAT(*Make(WithTemplate(), config)->Encode("a"), ElementsAre(0, 1, 2)) << "once";
  EXPECT_THAT(*Make(WithTemplate(), config)->Encode("a", plain), ElementsAre(1));
}

}  // namespace
}  // namespace strata::server::tokenizer_test
