#include "kvcache/plan/plane_map.h"

#include "gtest/gtest.h"
#include "kvcache/plan/plan_parser.h"
#include "kvcache/plan/plan_presets.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache::plane_map_test {
namespace {

using kernels::PlaneFormat;
using kernels::PlaneKind;

SharingPlan Parse(const char* text, const AttentionShape& shape) {
  absl::StatusOr<SharingPlan> plan = ParsePlan(nlohmann::json::parse(text), shape);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *std::move(plan);
}

double Ratio(const SharingPlan& plan) {
  const PlaneMap planes(plan, CacheFormats::Both(PlaneFormat::kBF16), 16);
  return static_cast<double>(planes.bytes_per_token()) /
         static_cast<double>(planes.plain_bytes_per_token());
}

double Ratio(const char* text, const AttentionShape& shape) { return Ratio(Parse(text, shape)); }

TEST(PlaneMap, PlainBytes) {
  const AttentionShape shape = {
      .num_layers = 3, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  const PlaneMap planes(SharingPlan::Plain(shape), CacheFormats::Both(PlaneFormat::kF32), 16);
  EXPECT_EQ(planes.planes().size(), 12U);
  EXPECT_EQ(planes.block_bytes(), 12U * 16 * 8 * 4);
  EXPECT_EQ(planes.bytes_per_token(), 12U * 8 * 4);
  EXPECT_EQ(planes.key_bytes_per_token(), 6U * 8 * 4);
  EXPECT_EQ(planes.value_bytes_per_token(), 6U * 8 * 4);
  EXPECT_EQ(planes.plain_bytes_per_token(), planes.bytes_per_token());
  EXPECT_EQ(planes.score_bytes_per_token(), 0U);
  EXPECT_EQ(
      PlaneMap(SharingPlan::Plain(shape), CacheFormats::Both(PlaneFormat::kBF16), 16).block_bytes(),
      planes.block_bytes() / 2);
}

// A scale for each token and kv head; key planes and value planes each have their own size.
TEST(PlaneMap, Int8Bytes) {
  const AttentionShape shape = {
      .num_layers = 3, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  const SharingPlan plan = Parse(R"({"preset":"svformer"})", shape);
  const PlaneMap planes(plan, {PlaneFormat::kI8, PlaneFormat::kBF16}, 32);
  EXPECT_EQ(planes.key_bytes_per_token(), 6U * (64 + 4));
  EXPECT_EQ(planes.value_bytes_per_token(), 2U * 64 * 2);
  EXPECT_EQ(planes.bytes_per_token(), 6U * 68 + 2 * 128);
  EXPECT_EQ(planes.plain_bytes_per_token(), 6U * (68 + 128));
  EXPECT_EQ(planes.block_bytes(), 32U * (6 * 68 + 2 * 128));
  EXPECT_EQ(planes.KeyPlane({0, 1}).offset, 32U * 68);
  EXPECT_EQ(planes.ValuePlane({0, 0}).offset, 32U * 2 * 68);
  EXPECT_EQ(planes.KeyPlane({1, 0}).offset, 32U * (2 * 68 + 2 * 128));
  for (const Plane& plane : planes.planes()) EXPECT_EQ(plane.offset % 64, 0U);
  // Rows are padded to words, so that scales are aligned for any length of a block.
  const PlaneMap padded(
      SharingPlan::Plain({.num_layers = 1, .num_query_heads = 1, .num_kv_heads = 1, .head_dim = 6}),
      CacheFormats::Both(PlaneFormat::kI8), 5);
  EXPECT_EQ(padded.bytes_per_token(), 2U * (8 + 4));
  EXPECT_EQ(padded.block_bytes(), 5U * padded.bytes_per_token());
}

TEST(PlaneMap, PlanesOfALayerStandTogether) {
  const AttentionShape shape = {
      .num_layers = 2, .num_query_heads = 2, .num_kv_heads = 2, .head_dim = 4};
  const PlaneMap planes(Parse(R"({"preset":"svformer"})", shape),
                        CacheFormats::Both(PlaneFormat::kF32), 2);
  constexpr size_t kPlane = 2 * 4 * 4;
  ASSERT_EQ(planes.planes().size(), 6U);
  const HeadRef heads[] = {{0, 0}, {0, 1}, {0, 0}, {0, 1}, {1, 0}, {1, 1}};
  for (size_t i = 0; i < 6; ++i) {
    const bool value = i == 2 || i == 3;
    EXPECT_EQ(planes.planes()[i].kind, value ? PlaneKind::kValue : PlaneKind::kKey) << i;
    EXPECT_EQ(planes.planes()[i].head, heads[i]) << i;
    EXPECT_EQ(planes.planes()[i].offset, i * kPlane) << i;
  }
  EXPECT_EQ(planes.KeyPlane({1, 1}).offset, 5 * kPlane);
  EXPECT_EQ(planes.ValuePlane({0, 1}).offset, 3 * kPlane);
}

TEST(PlaneMapDeathTest, AMissingPlaneIsOurBug) {
  const AttentionShape shape = {
      .num_layers = 2, .num_query_heads = 2, .num_kv_heads = 2, .head_dim = 4};
  const PlaneMap planes(Parse(R"({"preset":"svformer"})", shape),
                        CacheFormats::Both(PlaneFormat::kF32), 2);
  EXPECT_DEATH(planes.ValuePlane({1, 0}), "the plan has that value plane");
  EXPECT_DEATH(planes.KeyPlane({2, 0}), "a layer of the plan");
  EXPECT_DEATH(planes.KeyPlane({1, 2}), "a kv head of the plan");
}

// The ratios that the architectures promise, to the byte.
TEST(PlaneMap, Ratios) {
  for (const int32_t num_layers : {8, 12, 24, 32}) {
    for (const int32_t num_kv_heads : {1, 4}) {
      const AttentionShape shape = {.num_layers = num_layers,
                                    .num_query_heads = 4,
                                    .num_kv_heads = num_kv_heads,
                                    .head_dim = 64};
      const double layers = num_layers;
      const double computing = num_layers / 4;
      EXPECT_DOUBLE_EQ(Ratio(R"({"preset":"svformer"})", shape), (layers + 1) / (2 * layers));
      EXPECT_DOUBLE_EQ(Ratio(*NamedPlan("reuse", shape)), (computing + layers) / (2 * layers));
      EXPECT_DOUBLE_EQ(Ratio(*NamedPlan("svformer-reuse", shape)), (computing + 1) / (2 * layers));
      EXPECT_DOUBLE_EQ(Ratio(R"({"preset":"cla","factor":2})", shape), 0.5);
      EXPECT_DOUBLE_EQ(Ratio(R"({"preset":"resformer"})", shape), 1);
    }
  }
  const AttentionShape wide = {
      .num_layers = 32, .num_query_heads = 8, .num_kv_heads = 8, .head_dim = 128};
  EXPECT_DOUBLE_EQ(Ratio(*NamedPlan("svformer-reuse", wide)), 9.0 / 64);
}

TEST(PlaneMap, SlaHoldsOnlyWhatIsRead) {
  const AttentionShape shape = {
      .num_layers = 12, .num_query_heads = 12, .num_kv_heads = 12, .head_dim = 64};
  EXPECT_DOUBLE_EQ(Ratio(R"({"preset":"sla","skip_layers":9,"skip_heads":9})", shape), 1 - 0.1875);
}

TEST(PlaneMap, ScoreBytes) {
  const AttentionShape shape = {
      .num_layers = 8, .num_query_heads = 6, .num_kv_heads = 2, .head_dim = 64};
  const auto score_bytes = [&](const char* name) {
    return PlaneMap(*NamedPlan(name, shape), CacheFormats::Both(PlaneFormat::kBF16), 16)
        .score_bytes_per_token();
  };
  EXPECT_EQ(score_bytes("reuse"), 6 * sizeof(float));
  EXPECT_EQ(score_bytes("svformer"), 0U);
  // Layers 1-3 have layer 0's scores and values: outputs are reused, and so above layer 4.
  EXPECT_EQ(score_bytes("svformer-reuse"), 0U);
}

}  // namespace
}  // namespace strata::kvcache::plane_map_test
