#include "engine/serve/plan_report.h"

#include <algorithm>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "engine/model/formats.h"
#include "gtest/gtest.h"
#include "kvcache/plan/plan_parser.h"
#include "kvcache/plan/plan_presets.h"
#include "nlohmann/json.hpp"

namespace strata::engine::plan_report_test {
namespace {

using kernels::PlaneFormat;
using kvcache::AttentionShape;
using kvcache::CacheFormats;
using kvcache::SharingPlan;
using nlohmann::json;

constexpr AttentionShape kShape = {
    .num_layers = 8, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 64};

PlanReport Report(const char* cross_layer, const AttentionShape& shape = kShape,
                  CacheFormats dtypes = CacheFormats::Both(PlaneFormat::kBF16)) {
  absl::StatusOr<SharingPlan> plan = kvcache::ParsePlan(json::parse(cross_layer), shape);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return MakePlanReport(*plan, kvcache::PlaneMap(*plan, dtypes, 16), ScoreReuse::kAuto);
}

size_t LongestLine(const std::string& text) {
  std::istringstream lines(text);
  size_t longest = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.empty() || line.back() != ' ') << "'" << line << "'";
    longest = std::max(longest, line.size());
  }
  return longest;
}

TEST(PlanReport, Numbers) {
  const PlanReport report = Report(R"({"preset":"svformer"})");
  EXPECT_EQ(report.num_layers, kShape.num_layers);
  EXPECT_EQ(report.num_query_heads, kShape.num_query_heads);
  EXPECT_EQ(report.num_kv_heads, kShape.num_kv_heads);
  EXPECT_EQ(report.head_dim, kShape.head_dim);
  EXPECT_EQ(report.dtype, "bf16");
  EXPECT_EQ(report.key_bytes_per_token, 16U * 64 * 2);
  EXPECT_EQ(report.value_bytes_per_token, 2U * 64 * 2);
  EXPECT_EQ(report.bytes_per_token, 18U * 64 * 2);
  EXPECT_EQ(report.plain_bytes_per_token, 32U * 64 * 2);
  EXPECT_DOUBLE_EQ(report.ratio, 0.5625);
  EXPECT_EQ(report.score_bytes_per_token, 0U);
  EXPECT_EQ(report.planes.size(), 18U);
  ASSERT_EQ(report.layers.size(), 8U);
  EXPECT_EQ(report.layers[3].layer, 3);
  EXPECT_EQ(report.layers[3].summary, "layer 3: scores own, keys own, values 0");
  EXPECT_EQ(report.layers[3].values[2].layer, 0);
  EXPECT_EQ(report.layers[3].values[2].head, 1);
}

TEST(PlanReport, Int8CountsItsScales) {
  const char* const svformer = R"({"preset":"svformer"})";
  const PlanReport both = Report(svformer, kShape, CacheFormats::Both(PlaneFormat::kI8));
  EXPECT_EQ(both.dtype, "int8");
  EXPECT_EQ(both.key_bytes_per_token, 16U * (64 + 4));
  EXPECT_EQ(both.value_bytes_per_token, 2U * (64 + 4));
  EXPECT_DOUBLE_EQ(both.ratio, 0.5625);
  const PlanReport keys = Report(svformer, kShape, {PlaneFormat::kI8, PlaneFormat::kBF16});
  EXPECT_EQ(keys.dtype, "k=int8,v=bf16");
  EXPECT_EQ(keys.key_bytes_per_token, 16U * (64 + 4));
  EXPECT_EQ(keys.value_bytes_per_token, 2U * 64 * 2);
  EXPECT_EQ(keys.plain_bytes_per_token, 16U * (64 + 4 + 64 * 2));
}

TEST(PlanReport, CacheFormatsAreReadAsTheyAreWritten) {
  for (const std::string text :
       {"f32", "bf16", "f16", "int8", "fp8", "k=int8,v=bf16", "k=f32,v=int8"}) {
    const auto dtypes = ParseCacheFormats(text, PlaneFormat::kF32);
    ASSERT_TRUE(dtypes.ok()) << dtypes.status();
    EXPECT_EQ(CacheFormatsName(*dtypes), text);
  }
  EXPECT_EQ(CacheFormatsName(*ParseCacheFormats("auto", PlaneFormat::kBF16)), "bf16");
  EXPECT_EQ(CacheFormatsName(*ParseCacheFormats("auto", PlaneFormat::kF16)), "f16");
  EXPECT_EQ(CacheFormatsName(*ParseCacheFormats("k=int8,v=auto", PlaneFormat::kBF16)),
            "k=int8,v=bf16");
  for (const std::string text : {"", "int4", "f64", "int8,bf16", "k=int8", "k=int8,v=",
                                 "v=int8,k=int8", "k=int8,v=bf16,", "k=int8,v=int4", " int8"}) {
    EXPECT_EQ(ParseCacheFormats(text, PlaneFormat::kF32).status().message(),
              "cache-dtype: \"" + text +
                  "\" is not one of auto, f32, bf16, f16, int8, fp8, nor two as in k=int8,v=bf16");
  }
}

TEST(PlanReport, CountsWholeBlocks) {
  const PlanReport report = Report(R"({"preset":"svformer"})");
  const size_t block = 16 * report.bytes_per_token;
  EXPECT_EQ(report.TokensIn(block - 1, 16), 0);
  EXPECT_EQ(report.TokensIn(block, 16), 16);
  EXPECT_EQ(report.TokensIn(3 * block - 1, 16), 32);
  EXPECT_EQ(report.PlainTokensIn(16 * report.plain_bytes_per_token, 16), 16);
  EXPECT_EQ(report.PlainTokensIn(16 * report.plain_bytes_per_token - 1, 16), 0);
}

TEST(PlanReport, Runs) {
  const PlanReport reuse = Report(R"({"preset":"reuse","compute_layers":[0,4],"heads":2})");
  EXPECT_EQ(reuse.layers[1].runs,
            (std::vector<std::string>{"reuse-scores", "reuse-scores", "compute", "compute"}));
  EXPECT_GT(reuse.score_bytes_per_token, 0U);
  const PlanReport outputs =
      Report(R"([{"preset":"svformer"},{"preset":"reuse","compute_layers":[0,4]}])");
  EXPECT_EQ(outputs.layers[7].runs, std::vector<std::string>(4, "reuse-output"));
}

TEST(PlanReport, Json) {
  const PlanReport report = Report(R"({"preset":"resformer","layers":[1]})", {2, 2, 1, 4});
  const std::string text = PlanReportJson(report);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const json parsed = json::parse(text);
  const json expected = json::parse(R"({
      "num_layers":2, "num_query_heads":2, "num_kv_heads":1, "head_dim":4, "dtype":"bf16",
      "bytes_per_token":32, "key_bytes_per_token":16, "value_bytes_per_token":16,
      "plain_bytes_per_token":32, "ratio":1.0, "score_bytes_per_token":0, "score_reuse":"none",
      "planes":[{"kind":"key","layer":0,"head":0},{"kind":"value","layer":0,"head":0},
                {"kind":"key","layer":1,"head":0},{"kind":"value","layer":1,"head":0}],
      "layers":[
        {"layer":0,"scores":[[0,0],[0,1]],"keys":[[0,0],[0,0]],"values":[[0,0],[0,0]],
         "runs":["compute","compute"],"value_mix":"",
         "summary":"layer 0: scores own, keys own, values own"},
        {"layer":1,"scores":[[1,0],[1,1]],"keys":[[1,0],[1,0]],"values":[[1,0],[1,0]],
         "runs":["compute","compute"],"value_mix":"0.5 own + 0.5 first",
         "summary":"layer 1: scores own, keys own, values own, mix 0.5 own + 0.5 first"}]})");
  EXPECT_EQ(parsed, expected) << json::diff(expected, parsed);
}

TEST(PlanReport, Text) {
  EXPECT_EQ(
      PlanReportText(Report(R"([{"preset":"svformer"},{"preset":"reuse","compute_layers":[0,4]}])"),
                     64 << 20, 16),
      R"(8 layers, 4 query heads, 2 kv heads of 64, cache in bf16

Which layer's scores, keys and values each layer uses:
  layer     scores | keys | values
  0         own    | own  | own
  1-3       0      | 0    | 0
  4         own    | own  | 0
  5-7       4      | 4    | 0

Planes held, 6 of the plain cache's 32:
  keys      layers 0, 4 heads 0-1
  values    layer 0 heads 0-1

Bytes a token:
  this plan 768 (keys 512 + values 256) = 18.75 % of plain
  plain     4,096

Tokens in 67,108,864 bytes, blocks of 16:
  this plan 87,376
  plain     16,384
)");
}

TEST(PlanReport, TextOfHeadsThatDiffer) {
  const std::string sla =
      PlanReportText(Report(R"({"preset":"sla","skip_layers":6,"skip_heads":2})"), 1 << 20, 16);
  EXPECT_NE(sla.find("  0-5       own    | own                             | own\n"
                     "  6         own    | heads 0-1 own, 2-3 from layer 0 | heads 0-1 own, 2-3 "
                     "from layer 0\n"),
            std::string::npos)
      << sla;
  const std::string reuse =
      PlanReportText(Report(R"({"preset":"reuse","compute_layers":[0],"heads":2})"), 1 << 20, 16);
  EXPECT_NE(reuse.find("  layer     2\n"
                       "    scores  heads 0-1 from layer 1 heads 2-3, 2-3 own\n"),
            std::string::npos)
      << reuse;
}

TEST(PlanReport, TextStaysInAHundredColumns) {
  std::mt19937 random(11);
  const AttentionShape shape = {
      .num_layers = 40, .num_query_heads = 32, .num_kv_heads = 16, .head_dim = 8};
  json values = json::array();
  for (uint32_t layer = 0; layer < 40; ++layer) {
    json heads = json::array();
    for (int head = 0; head < 32; ++head) {
      heads.push_back(json::array({random() % (layer + 1), random() % 16}));
    }
    values.push_back(heads);
  }
  const PlanReport report = Report(json{{"values", values}}.dump().c_str(), shape);
  EXPECT_LE(LongestLine(PlanReportText(report, size_t{1} << 40, 16)), 100U);
  for (const char* name : {"plain", "svformer", "resformer", "reuse", "svformer-reuse", "sla",
                           "cla", "skipv1", "fusedkv-lite"}) {
    const SharingPlan plan = *kvcache::NamedPlan(name, shape);
    const kvcache::PlaneMap planes(plan, CacheFormats::Both(PlaneFormat::kBF16), 16);
    const PlanReport named = MakePlanReport(plan, planes, ScoreReuse::kAuto);
    const std::string text = PlanReportText(named, 1 << 20, 16);
    EXPECT_LE(LongestLine(text), 100U) << text;
  }
}

}  // namespace
}  // namespace strata::engine::plan_report_test
