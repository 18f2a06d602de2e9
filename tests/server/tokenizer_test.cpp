#include "server/tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/unicode.h"

namespace strata::server {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::filesystem::path DataDir() {
  const char* dir = std::getenv("STRATA_TEST_DATA");
  return dir != nullptr ? dir : std::filesystem::path(STRATA_SOURCE_DIR) / ".." / "shared" / "data";
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::unique_ptr<Tokenizer> Make(const json& tokenizer, const json& config = nullptr) {
  auto made = Tokenizer::FromJson(tokenizer.dump(), config.is_null() ? "" : config.dump());
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::string MakeError(const json& tokenizer, const json& config = nullptr) {
  const auto made = Tokenizer::FromJson(tokenizer.dump(), config.is_null() ? "" : config.dump());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(made.status().message());
}

// A model whose tokens are the characters of `characters`, in order from 0, without merges.
json CharModel(const std::vector<std::string>& characters) {
  json model = {{"type", "BPE"}, {"vocab", json::object()}, {"merges", json::array()}};
  for (size_t i = 0; i < characters.size(); ++i) model["vocab"][characters[i]] = i;
  return model;
}

// The pieces that `pre_tokenizer` makes of a text. Every piece that the test names is a token, and
// ignore_merges takes it whole; "?" is any other.
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

// What `normalizer` makes of a text, seen through a model of single characters.
std::string Normalized(const json& normalizer, std::string_view text,
                       const std::vector<std::string>& characters) {
  json tokenizer = {{"model", CharModel(characters)}, {"normalizer", normalizer}};
  tokenizer["decoder"] = {{"type", "Fuse"}};
  const auto made = Make(tokenizer);
  return *made->Decode(*made->Encode(text));
}

json Split(const json& pattern, std::string_view behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}};
}

// ---------------------------------------------------------------------------------------------
// Published tokenizers.

// llama.cpp's vectors: texts that end in "\n__ggml_vocab_test__\n", and for each a line of ids,
// made without BOS.
void CheckVectors(const std::string& tokenizer_name, const std::string& vectors) {
  const std::filesystem::path dir = DataDir() / "tokenizers";
  if (!std::filesystem::exists(dir / (vectors + ".inp"))) GTEST_SKIP() << "no data in " << dir;
  const auto tokenizer = Tokenizer::Load(dir / tokenizer_name);
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
  const auto tokenizer = Tokenizer::Load(dir);
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
  const auto tokenizer = Tokenizer::Load(dir);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 50295);
  EXPECT_THAT(*(*tokenizer)->Encode("a    b"), ElementsAre(64, 50284, 65));
  EXPECT_EQ(*(*tokenizer)->Decode(Ids{64, 50284, 65}), "a    b");
}

TEST(PublishedTokenizerTest, TinyStoriesHasNoByteTokens) {
  const std::filesystem::path dir = DataDir() / "models" / "tinystories-656k";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no " << dir;
  const auto tokenizer = Tokenizer::Load(dir);
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
  if (!std::filesystem::exists(vectors)) GTEST_SKIP() << "no " << vectors;
  const auto tokenizer = Tokenizer::Load(source / "deploy" / "models" / "svformer");
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
  // The alphabet as GPT-2 defines it: printable bytes are themselves, the others follow U+00FF.
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

// ---------------------------------------------------------------------------------------------
// What is refused, and the messages.

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
  EXPECT_EQ(Tokenizer::Load("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Tokenizer::FromJson("{").status().message(), "tokenizer.json: not valid JSON");
  EXPECT_EQ(Tokenizer::FromJson("3").status().message(),
            "tokenizer.json: document: expected an object, got 3");
  EXPECT_EQ(Tokenizer::FromJson(std::string(100'000, '[')).status().message(),
            "tokenizer.json: not valid JSON");
  const std::string deep = "{\"model\":" + std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_EQ(Tokenizer::FromJson(deep + "}").status().message(),
            "tokenizer.json: model: expected an object, got an array");
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
              HasSubstr("expected less nesting"));
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
}  // namespace strata::server
