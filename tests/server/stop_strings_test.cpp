#include "server/text/stop_strings.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "server/base/unicode.h"

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

// Naive: after each byte, is one of the strings at the end of all bytes so far?
Output Search(const std::vector<std::string>& stops, bool include,
              const std::vector<std::string>& pieces, size_t armed_from) {
  std::string all;
  for (size_t i = 0; i < pieces.size(); ++i) {
    for (const char byte : pieces[i]) {
      all += byte;
      size_t longest = 0;
      for (const std::string& stop : stops) {
        if (i >= armed_from && all.ends_with(stop)) longest = std::max(longest, stop.size());
      }
      if (longest == 0) continue;
      return {all.substr(0, all.size() - (include ? 0 : longest)), static_cast<int>(i) + 1};
    }
  }
  return {all, -1};
}

class RandomText {
 public:
  explicit RandomText(uint32_t seed) : random_(seed) {}
  size_t Below(size_t end) { return random_() % end; }
  std::string Of(const std::vector<std::string>& letters, size_t count) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += letters[Below(letters.size())];
    return text;
  }

 private:
  std::mt19937 random_;
};

// On texts in which strings overlap, cut into pieces at random.
TEST(StopStringsTest, AgreesWithASearchOfTheWholeText) {
  RandomText random(31);
  int matches = 0;
  for (int round = 0; round < 5000; ++round) {
    const std::vector<std::string> letters = {"a", "b", "\xC3\xA9"};
    std::vector<std::string> stops(random.Below(4));
    for (std::string& stop : stops) stop = random.Of(letters, 1 + random.Below(5));
    std::vector<std::string> pieces(random.Below(12));
    for (std::string& piece : pieces) piece = random.Of(letters, random.Below(4));
    const size_t armed_from = random.Below(4);
    const bool include = random.Below(2) == 0;
    const Output expected = Search(stops, include, pieces, armed_from);
    matches += expected.pieces < 0 ? 0 : 1;
    ASSERT_EQ(Feed(Make(stops, include), pieces, armed_from), expected) << "round " << round;
  }
  EXPECT_GT(matches, 1000);
}

// Strings that repeat themselves, in texts made of their beginnings: after a mismatch the matcher
// falls back to a shorter beginning, often several times for a byte; after a match that does not
// count it does too.
TEST(StopStringsTest, StringsThatRepeatThemselvesAreFoundAfterEveryMismatch) {
  RandomText random(13);
  const std::vector<std::string> letters = {"a", "b"};
  const std::vector<std::string> known = {"aabaaab",  "aabaabaaab",  "abaababaabaab", "aaaaab",
                                          "abababac", "aabaaabaaac", "baabaabab"};
  int matches = 0;
  int late = 0;  // beyond the first match of a text in which nothing counted before
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random.Below(3));
    for (std::string& stop : stops) {
      stop = random.Below(2) == 0 ? known[random.Below(known.size())]
                                  : random.Of(letters, 1 + random.Below(14));
    }
    std::string text;
    while (text.size() < 80) {
      const std::string& stop = stops[random.Below(stops.size())];
      text += stop.substr(0, 1 + random.Below(stop.size()));
      text += random.Of(letters, random.Below(3));
    }
    std::vector<std::string> pieces;
    const size_t longest_piece = 1 + random.Below(12);
    for (size_t begin = 0; begin < text.size(); begin += pieces.back().size()) {
      pieces.push_back(text.substr(begin, 1 + random.Below(longest_piece)));
    }
    const size_t armed_from = random.Below(2) == 0 ? 0 : random.Below(pieces.size());
    const bool include = random.Below(2) == 0;
    const Output expected = Search(stops, include, pieces, armed_from);
    const Output from_the_start = Search(stops, include, pieces, 0);
    matches += expected.pieces < 0 ? 0 : 1;
    late += expected.pieces > from_the_start.pieces ? 1 : 0;
    ASSERT_EQ(Feed(Make(stops, include), pieces, armed_from), expected)
        << "round " << round << ", " << text << " armed from piece " << armed_from;
  }
  EXPECT_GT(matches, 10000);
  EXPECT_GT(late, 1000);
}

// The smallest case: when "b" follows "aabaa", the longest beginning left is "aab".
TEST(StopStringsTest, AMismatchLeavesTheLongestBeginning) {
  EXPECT_EQ(Feed(Make({"aabaaab"}), {"aabaabaaab"}), (Output{"aab", 1}));
  EXPECT_EQ(Feed(Make({"aabaaab"}), {"aabaaaabaaab"}), (Output{"aabaa", 1}));
  EXPECT_EQ(Feed(Make({"aabaaab"}), {"aabaaabaaab", "x"}, 1), (Output{"aabaaabaaabx", -1}));
  EXPECT_EQ(Feed(Make({"aabaaab"}), {"aabaaab", "aaab"}, 1), (Output{"aaba", 2}));
}

}  // namespace
}  // namespace strata::server::stop_strings_test
