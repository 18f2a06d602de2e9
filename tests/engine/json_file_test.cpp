#include "engine/base/json_file.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "engine/base/file_marks.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/base/errors.h"
#include "nlohmann/json.hpp"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::json_file_test {
namespace {

using ::strata::testing::WriteFile;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

constexpr char kLfsPointer[] =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    "size 12345\n";

std::string Refusal(const std::string& text) {
  const auto json = ParseJson("the body", text);
  if (json.ok()) return "";
  EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(json.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_EQ(message.find("the body: "), 0U) << message;
  return message.substr(sizeof("the body: ") - 1);
}

// A random value of up to `depth` nested containers.
Json RandomValue(std::mt19937_64& random, int depth) {
  const auto pick = [&random](uint64_t count) { return random() % count; };
  switch (pick(depth > 0 ? 9 : 7)) {
    case 0:
      return nullptr;
    case 1:
      return pick(2) == 1;
    case 2:
      return random() >> pick(64);
    case 3:
      return -static_cast<int64_t>(random() >> (1 + pick(63)));
    case 4:
      return static_cast<double>(static_cast<int64_t>(random())) * 1e-9;
    case 5:
      return "caf\u00e9 \U0001F600 \"\\\n" + std::to_string(random());
    case 6:
      return std::string(pick(40), 'x');
    case 7: {
      Json array = Json::array();
      for (uint64_t i = pick(5); i > 0; --i) array.push_back(RandomValue(random, depth - 1));
      return array;
    }
    default: {
      Json object = Json::object();
      for (uint64_t i = pick(5); i > 0; --i) {
        object[std::to_string(random() % 100)] = RandomValue(random, depth - 1);
      }
      return object;
    }
  }
}

TEST(ParseJsonTest, ReadsWhatTheLibrarysOwnParserReads) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    Json value = Json::array();
    while (value.size() < 5) value.push_back(RandomValue(random, 5));
    const std::string text = value.dump(i % 3 - 1, ' ', /*ensure_ascii=*/i % 2 == 0);
    const auto parsed = ParseJson("x", text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ASSERT_EQ(*parsed, Json::parse(text)) << text;
    ASSERT_EQ(parsed->dump(), value.dump());
  }
}

TEST(ParseJsonTest, ALoneSurrogateIsCalledThat) {
  const std::string lone =
      "not JSON, a string has a lone surrogate (one of \\ud800 to \\udfff that is no half of a "
      "pair) "
      "at byte ";
  EXPECT_EQ(Refusal(R"("\ud800")"), lone + "8 of 8");
  EXPECT_EQ(Refusal(R"({"prompt":"hello \ud83d"})"), lone + "24 of 25");
  EXPECT_EQ(Refusal(R"(["\udc00"])"), lone + "8 of 10");
  EXPECT_EQ(Refusal(R"(["\ud800\ud800"])"), lone + "14 of 16");
  EXPECT_EQ(Refusal(R"(["\ud800\n"])"), lone + "10 of 12");
  EXPECT_EQ(Refusal(R"({"\udfff":1})"), lone + "8 of 12");  // a key
  EXPECT_EQ(ParseJson("x", R"("\ud83d\ude00")").value(), "\U0001F600");
}

TEST(ParseJsonTest, OtherErrorsAreNotTakenForOne) {
  EXPECT_EQ(Refusal(R"(["invalid string: surrogate U+D800" x])"),
            "not JSON, the error is at byte 37 of 38");
  EXPECT_EQ(Refusal("[\"invalid string: surrogate \x01\"]"),
            "not JSON, the error is at byte 29 of 31");
  EXPECT_EQ(Refusal(R"(["\u12g4"])"), "not JSON, the error is at byte 7 of 10");
  EXPECT_EQ(Refusal("{\"a\":1,}"), "not JSON, the error is at byte 8 of 8");
  EXPECT_EQ(Refusal("{\"a\""), "not JSON, the error is at byte 5 of 4");
  EXPECT_EQ(Refusal("{} {}"), "not JSON, the error is at byte 4 of 5");
  EXPECT_EQ(Refusal("[1e999]"), "JSON with a number beyond the range of float64");
}

TEST(ParseJsonTest, NamesTextThatIsEmptyOrNotUtf8) {
  EXPECT_EQ(Refusal(""), "not JSON, it is empty");
  EXPECT_EQ(Refusal(" "), "not JSON, the error is at byte 2 of 1");
  EXPECT_EQ(Refusal("[\"a\xFF\"]"), "not JSON, a string is not UTF-8 at byte 4 of 6");
  EXPECT_EQ(Refusal("[\"\xED\xA0\x80\"]"), "not JSON, a string is not UTF-8 at byte 4 of 7");
}

TEST(ParseJsonTest, SkipsAByteOrderMarkOfUtf8AndNamesOneOfUtf16) {
  EXPECT_EQ(ParseJson("x", "\xEF\xBB\xBF[1]").value(), Json::array({1}));
  const std::string utf16 =
      "begins with a byte-order mark of UTF-16; save the file as UTF-8 without one";
  EXPECT_EQ(Refusal(std::string("\xFF\xFE[\0]\0", 6)), utf16);
  EXPECT_EQ(Refusal(std::string("\xFE\xFF\0[\0]", 6)), utf16);
}

TEST(ParseJsonTest, ErrorsHoldNothingOfTheText) {
  for (const char* text :
       {R"({"prompt":"SECRET \ud800"})", "{\"prompt\":\"SECRET \x02\"}", "{\"prompt\":\"SECRET",
        R"({"prompt":SECRET})", "SECRET", R"(["SECRET" "SECRET"])",
        R"({"prompt":["SECRET",1e400]})", "{\"prompt\":\"SECRET\xFF\"}"}) {
    EXPECT_THAT(Refusal(text), Not(HasSubstr("SECRET"))) << text;
    EXPECT_NE(Refusal(text), "") << text;
  }
}

TEST(ParseJsonTest, RefusesAKeyThatStandsTwiceByItsNameAlone) {
  EXPECT_EQ(Refusal(R"({"a":1,"b":{"a":2},"a":"SECRET"})"), "key \"a\" twice");
  EXPECT_EQ(Refusal(R"([{"x":{"b":1,"b":1}}])"), "key \"b\" twice");
  EXPECT_EQ(Refusal(R"({"a":1,"\u0061":2})"), "key \"a\" twice");
  EXPECT_EQ(Refusal(R"([{"a":1},{"a":1},{"b":{"a":1}}])"), "");
  const std::string name(500, 'n');
  EXPECT_LT(Refusal(Concat("{\"", name, "\":1,\"", name, "\":2}")).size(), 100U);
}

TEST(ParseJsonTest, RefusesNestingAtTheLimitAndReadsNoFurther) {
  const auto nested = [](size_t depth, const std::string& open, const std::string& close) {
    std::string text;
    for (size_t i = 0; i < depth; ++i) text += open;
    text += "1";
    for (size_t i = 0; i < depth; ++i) text += close;
    return text;
  };
  const std::string deep = "JSON nested deeper than the limit of 32";
  EXPECT_EQ(Refusal(nested(32, "[", "]")), "");
  EXPECT_EQ(Refusal(nested(33, "[", "]")), deep);
  EXPECT_EQ(Refusal(nested(32, "{\"a\":", "}")), "");
  EXPECT_EQ(Refusal(nested(33, "{\"a\":", "}")), deep);
  EXPECT_EQ(Refusal(std::string(10'000'000, '[')), deep);
}

TEST(ParseJsonTest, CallsAnLfsPointerThat) {
  EXPECT_EQ(Refusal(kLfsPointer), "a Git LFS pointer, not the file itself; run git lfs pull");
  const strata::testing::ScratchDir dir;
  const auto path = dir.path() / "config.json";
  WriteFile(path, kLfsPointer);
  EXPECT_EQ(ReadJsonFile(path, 1000).status().message(),
            path.string() + ": a Git LFS pointer, not the file itself; run git lfs pull");
}

TEST(FileMarksTest, SeeTheFirstBytesAlone) {
  EXPECT_TRUE(RefuseLfsPointer("f", std::string(" ") + kLfsPointer).ok());
  EXPECT_TRUE(RefuseLfsPointer("f", "version https://example.com").ok());
  EXPECT_TRUE(RefuseByteOrderMark("f", "a\xEF\xBB\xBF").ok());
  EXPECT_TRUE(RefuseByteOrderMark("f", "\xEF\xBB").ok());
  EXPECT_TRUE(RefuseByteOrderMark("f", "").ok());
  EXPECT_EQ(RefuseByteOrderMark("f", "\xEF\xBB\xBF").message(),
            "f: begins with a byte-order mark; save the file as UTF-8 without one");
}

}  // namespace
}  // namespace strata::engine::json_file_test
