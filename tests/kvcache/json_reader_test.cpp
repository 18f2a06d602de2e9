#include "kvcache/base/json_reader.h"

#include <cmath>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "kvcache/base/error_details.h"

namespace strata::json_reader_test {
namespace {

using Json = nlohmann::json;

struct Document {
  explicit Document(const char* text) : json(Json::parse(text)) {}
  // After a read: the error, "" if there is none.
  std::string Error() const { return std::string(status.message()); }

  Json json;
  absl::Status status;
  JsonReader reader{json, "", &status};
};

TEST(JsonReaderTest, ReadsWhatIsThere) {
  Document d(R"({"s":"a","t":true,"i":-3,"w":16.0,"big":9223372036854775807,"f":0.25,"n":null,
                 "o":{"x":1},"l":[1,2],"os":[{"x":1},{"x":2}],"":{"":7}})");
  JsonReader& r = d.reader;
  EXPECT_EQ(r.String("s"), "a");
  EXPECT_EQ(r.String("n", "b"), "b");
  EXPECT_EQ(r.String("absent", "c"), "c");
  EXPECT_TRUE(r.Bool("t", false));
  EXPECT_TRUE(r.Bool("n", true));
  EXPECT_EQ(r.OptionalBool("absent"), std::nullopt);
  EXPECT_EQ(r.Integer("i", -3, -3), -3);
  EXPECT_EQ(r.Integer("w", 0, 20), 16);
  EXPECT_EQ(r.Integer("big", 0, INT64_MAX), INT64_MAX);
  EXPECT_EQ(r.OptionalInteger("n", 0, 1), std::nullopt);
  EXPECT_EQ(r.Positive("f", 1), 0.25);
  EXPECT_EQ(r.Positive("n", 1, 0.5), 0.5);
  EXPECT_EQ(r.Float("f", 0.25F, 0.25F), 0.25F);
  EXPECT_EQ(r.OptionalFloat("i"), -3.0F);
  EXPECT_EQ(r.OptionalFloat("absent", 0, 1), std::nullopt);
  EXPECT_EQ(r.Object("o").Integer("x", 0, 1), 1);
  EXPECT_EQ(r.Elements("l").at(1).Integer("", 0, 2), 2);
  EXPECT_EQ(r.Objects("os").at(1).Integer("x", 0, 2), 2);
  EXPECT_TRUE(r.Objects("n").empty());
  EXPECT_EQ(r.Object("").Member("").Integer("", 0, 7), 7) << "an empty name is a name";
  EXPECT_TRUE(r.IsWritten("n") && !r.Has("n") && !r.IsWritten("absent"));
  EXPECT_EQ(d.Error(), "");
}

TEST(JsonReaderTest, NamesPathLimitAndValue) {
  const auto error = [](const char* text, const auto& read) {
    Document d(text);
    read(d.reader);
    EXPECT_EQ(d.status.code(), absl::StatusCode::kInvalidArgument) << text;
    return d.Error();
  };
  const auto integer = [](JsonReader& r) { EXPECT_EQ(r.Integer("i", 1, 9), 1); };
  EXPECT_EQ(error("{}", integer), "i: expected a whole number from 1 to 9, got nothing");
  EXPECT_EQ(error(R"({"i":0})", integer), "i: expected a whole number from 1 to 9, got 0");
  EXPECT_EQ(error(R"({"i":2.5})", integer), "i: expected a whole number from 1 to 9, got 2.5");
  EXPECT_EQ(error(R"({"i":"2"})", integer), "i: expected a whole number from 1 to 9, got \"2\"");
  EXPECT_EQ(error(R"({"i":18446744073709551615})", integer),
            "i: expected a whole number from 1 to 9, got 18446744073709551615");
  EXPECT_EQ(error(R"({"i":3})", [](JsonReader& r) { r.Integer("i", 2, 1, "a layer"); }),
            "i: expected a layer, of which there is none, got 3");
  EXPECT_EQ(error("[]", [](JsonReader& /*r*/) {}), "document: expected an object, got []");
  EXPECT_EQ(error(R"({"o":{"l":[0,{"x":null}]}})",
                  [](JsonReader& r) { r.Object("o").Elements("l").at(1).String("x"); }),
            "o.l[1].x: expected a string, got null");
  EXPECT_EQ(error("{}", [](JsonReader& r) { r.Elements("l", "a list of layers"); }),
            "l: expected a list of layers, got nothing");
  EXPECT_EQ(error(R"({"os":[{},3]})", [](JsonReader& r) { r.Objects("os"); }),
            "os[1]: expected an object, got 3");
  EXPECT_EQ(error(R"({"f":1e-60})", [](JsonReader& r) { r.Positive("f", 2); }),
            "f: expected a number above 0, at most 2, got 1e-60");
  EXPECT_EQ(error(R"({"f":2.5})", [](JsonReader& r) { r.Positive("f", 2); }),
            "f: expected a number above 0, at most 2, got 2.5");
  EXPECT_EQ(error(R"({"f":-0.5})", [](JsonReader& r) { r.OptionalFloat("f", 0, 1); }),
            "f: expected a number from 0 to 1, got -0.5");
  EXPECT_EQ(error(R"({"a\nb":1})", [](JsonReader& r) { r.RefuseOthers({}); }),
            R"("a\nb": not recognised)");
  // Names that the document chose, wherever they stand.
  EXPECT_EQ(
      error(R"({"o":{"a\nb":1}})", [](JsonReader& r) { r.Object("o").FailExpected("a\nb", "2"); }),
      R"(o."a\nb": expected 2, got 1)");
  EXPECT_EQ(error(R"({"a\nb":{"x":1}})", [](JsonReader& r) { r.Object("a\nb").String("x"); }),
            R"("a\nb".x: expected a string, got 1)");
}

TEST(JsonReaderTest, NumbersThatAreNone) {
  Json json = {{"nan", std::nan("")}, {"inf", std::numeric_limits<double>::infinity()}};
  for (const char* name : {"nan", "inf"}) {
    absl::Status status;
    JsonReader(json, "", &status).Positive(name, 1);
    EXPECT_FALSE(status.ok()) << name;
    status = absl::OkStatus();
    JsonReader(json, "", &status).Float(name, -1, 1);
    EXPECT_FALSE(status.ok()) << name;
    EXPECT_EQ(WholeNumber(json[name]), std::nullopt) << name;
  }
}

TEST(JsonReaderTest, TheFirstErrorStays) {
  Document d(R"({"a":1,"b":2})");
  EXPECT_EQ(d.reader.String("a"), "");
  d.reader.FailNotBuilt("b");
  EXPECT_EQ(d.Error(), "a: expected a string, got 1");
  EXPECT_EQ(FieldOf(d.status), "a");
}

TEST(JsonReaderTest, ErrorsOfAFileNameTheFile) {
  const Json json = {{"act", "gelu"}};
  absl::Status status;
  JsonReader reader(json, "config.json", &status);
  reader.FailNotBuilt("act", ", only silu");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "config.json: act: \"gelu\" is not built, only silu");
}

TEST(JsonReaderTest, ValuesInMessagesAreShort) {
  EXPECT_EQ(DescribeJson({1, "a", nullptr}), R"([1,"a",null])");
  EXPECT_EQ(DescribeJson({{"a", 1}}), R"({"a":1})");
  EXPECT_EQ(DescribeJson({{"a", {1}}}), "an object");
  EXPECT_EQ(DescribeJson(Json(std::vector<int>(9))), "an array of 9");
  EXPECT_EQ(DescribeJson(Json::array({std::string(200, 'x')})), "an array of 1");
  // 79 bytes, then a character of two, which is not cut in half.
  const std::string text = DescribeJson(std::string(78, 'x') + "\u00e9" + "yyyy");
  EXPECT_EQ(text, "\"" + std::string(78, 'x') + "...");
  EXPECT_EQ(DescribeJson("a\nb\xff"), "\"a\\nb\xEF\xBF\xBD\"");
}

}  // namespace
}  // namespace strata::json_reader_test
