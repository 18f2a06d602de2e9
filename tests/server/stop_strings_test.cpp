#include "server/stop_strings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/unicode.h"

namespace strata::server::stop_strings_test {
namespace {

StopStrings Make(std::vector<std::string> strings, bool include = false) {
  auto made = StopStrings::Create(std::move(strings), include);
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *made : StopStrings();
}

struct Output {
  std::string text;
  int pieces = -1;  // up to the match; -1: none

  friend bool operator==(const Output&, const Output&) = default;
};

Output Feed(const StopStrings& strings, const std::vector<std::string>& pieces,
            size_t armed_from = 0) {
  StopMatcher matcher(&strings);
  Output output;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool matched = matcher.Push(pieces[i], i >= armed_from, &output.text);
    EXPECT_EQ(FindInvalidUtf8(output.text), std::nullopt);
    if (!matched) continue;
    output.pieces = static_cast<int>(i) + 1;
    return output;
  }
  matcher.Finish(&output.text);
  return output;
}

TEST(StopStringsTest, CutsOrIncludesAcrossPieces) {
  const std::vector<std::string> pieces = {"one ", "E", "N", "Dless"};
  EXPECT_EQ(Feed(Make({"END"}), pieces), (Output{"one ", 4}));
  EXPECT_EQ(Feed(Make({"END"}, true), pieces), (Output{"one END", 4}));
  EXPECT_EQ(Feed(Make({"N"}), pieces), (Output{"one E", 3}));
  EXPECT_EQ(Feed(Make({"one"}), pieces), (Output{"", 1}));
  EXPECT_EQ(Feed(Make({"ENDless "}), pieces), (Output{"one ENDless", -1}));
  EXPECT_EQ(Feed(Make({}), pieces), (Output{"one ENDless", -1}));
}

TEST(StopStringsTest, HoldsBackWhatMayStartAStopStringAndNoMore) {
  const StopStrings strings = Make({"\n\n", "Q:"});
  StopMatcher matcher(&strings);
  std::string out;
  EXPECT_FALSE(matcher.Push("a\n", true, &out));
  EXPECT_EQ(out, "a");
  EXPECT_FALSE(matcher.Push("b Q", true, &out));
  EXPECT_EQ(out, "a\nb ");
  EXPECT_FALSE(matcher.Push("Q", true, &out));
  EXPECT_EQ(out, "a\nb Q");
  matcher.Finish(&out);
  EXPECT_EQ(out, "a\nb QQ");

  const StopStrings included = Make({"\n\n"}, true);
  StopMatcher eager(&included);
  out.clear();
  EXPECT_FALSE(eager.Push("a\n", true, &out));
  EXPECT_EQ(out, "a\n");
  EXPECT_TRUE(eager.Push("\nb", true, &out));
  EXPECT_EQ(out, "a\n\n");
}

TEST(StopStringsTest, TheFirstToEndWinsAndOfThoseTheLongest) {
  EXPECT_EQ(Feed(Make({"abcd", "bc"}), {"abcd"}), (Output{"a", 1}));
  EXPECT_EQ(Feed(Make({"c", "bc"}), {"abcd"}), (Output{"a", 1}));
  EXPECT_EQ(Feed(Make({"aab"}), {"aaab"}), (Output{"a", 1}));
  EXPECT_EQ(Feed(Make({"abab!"}), {"abababab", "!"}), (Output{"abab", 2}));
}

TEST(StopStringsTest, AnEmptyStringAsksForNothing) {
  EXPECT_EQ(Feed(Make({""}), {"a", "b"}), (Output{"ab", -1}));
  EXPECT_EQ(Feed(Make({"", "b", ""}), {"a", "b"}), (Output{"a", 2}));
}

TEST(StopStringsTest, TellsWhichWasMet) {
  const StopStrings strings = Make({"c", "bc", "x"});
  StopMatcher matcher(&strings);
  std::string out;
  EXPECT_TRUE(matcher.Push("abc", true, &out));
  EXPECT_EQ(matcher.met(), "bc");
}

TEST(StopStringsTest, NotArmedAMatchDoesNotCountButItsStartMay) {
  const StopStrings strings = Make({"aa"});
  EXPECT_EQ(Feed(strings, {"xaa", "y", "aa"}, 1), (Output{"xaay", 3}));
  EXPECT_EQ(Feed(strings, {"xa", "a"}, 1), (Output{"x", 2}));
  EXPECT_EQ(Feed(strings, {"xaa", "a"}, 1), (Output{"xa", 2}));
  EXPECT_EQ(Feed(strings, {"aa", "aa"}, 2), (Output{"aaaa", -1}));
}

TEST(StopStringsTest, RefusesWhatIsOutsideTheLimits) {
  const auto error = [](std::vector<std::string> strings) {
    const auto made = StopStrings::Create(std::move(strings), false);
    EXPECT_TRUE(absl::IsInvalidArgument(made.status()));
    return std::string(made.status().message());
  };
  EXPECT_EQ(error(std::vector<std::string>(17, "a")), "stop: 17 strings is not at most 16");
  EXPECT_EQ(error({std::string(257, 'a')}), "stop: 257 bytes at 0 is not at most 256");
  EXPECT_EQ(error({"a\xFF"}), "stop: the string at 0 is not UTF-8 at byte 1");
  Make(std::vector<std::string>(16, std::string(256, 'a')));
}

// Against the definition, over texts in which strings overlap, cut into pieces at random.
TEST(StopStringsTest, AgreesWithASearchOfTheWholeText) {
  std::mt19937 random(31);
  const std::vector<std::string> letters = {"a", "b", "\xC3\xA9"};
  const auto text_of = [&](size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += letters[random() % letters.size()];
    return text;
  };
  int matches = 0;
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops(random() % 4);
    for (std::string& stop : stops) stop = text_of(1 + random() % 5);
    std::vector<std::string> pieces(random() % 12);
    for (std::string& piece : pieces) piece = text_of(random() % 4);
    const size_t armed_from = random() % 4;
    const bool include = random() % 2 == 0;

    Output expected;
    std::string all;
    for (size_t i = 0; i < pieces.size() && expected.pieces < 0; ++i) {
      for (const char byte : pieces[i]) {
        all += byte;
        size_t longest = 0;
        for (const std::string& stop : stops) {
          if (i >= armed_from && all.ends_with(stop)) longest = std::max(longest, stop.size());
        }
        if (longest == 0) continue;
        expected = {all.substr(0, all.size() - (include ? 0 : longest)), static_cast<int>(i) + 1};
        break;
      }
    }
    if (expected.pieces < 0) expected.text = all;
    matches += expected.pieces < 0 ? 0 : 1;
    ASSERT_EQ(Feed(Make(stops, include), pieces, armed_from), expected) << "round " << round;
  }
  EXPECT_GT(matches, 1000);
}

}  // namespace
}  // namespace strata::server::stop_strings_test
