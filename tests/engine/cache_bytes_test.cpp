// Bytes per token by the papers' formulas, and as found in the arena's memory.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/sanitized.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::cache_bytes_test {
namespace {

using nlohmann::json;

constexpr int kLayers = 8;

struct PlanBytes {
  std::string name;
  json cross_layer;
  // Planes of the plan for one kv head over all layers, 2 L in a plain cache; for SLA, whose heads
  // differ, planes over kv heads.
  double planes = 0;
};

// MHA, so that SLA may skip any number of heads: L = 8, H = G = 4.
std::vector<PlanBytes> Plans(int kv_heads) {
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  const int computing = 2;
  // SLA, skip 5 layers with 2 of 4 heads: in layers 5, 6, 7 these heads' own planes have no reader
  // (no layer is 5 above layer 7): 3 layers x half the kv heads x (K and V).
  return {{"plain", {{"preset", "plain"}}, 2 * kLayers},
          {"resformer", {{"preset", "resformer"}}, 2 * kLayers},
          {"svformer", svformer, kLayers + 1},
          {"svformer-anchors", {{"preset", "svformer"}, {"anchors", {0, 3}}}, kLayers + 2},
          {"reuse", reuse, computing + kLayers},
          {"svformer-reuse", {svformer, reuse}, computing + 1},
          {"cla", {{"preset", "cla"}, {"factor", 2}}, kLayers},
          {"sla",
           {{"preset", "sla"}, {"skip_layers", 5}, {"skip_heads", 2}},
           2 * kLayers - 3 * 2 * 0.5},
          // Upper half of V from layer 0: K everywhere, V in half the heads above layer 0.
          {"skipv1", {{"preset", "skipv1"}}, kv_heads == 1 ? 0 : kLayers + 1 + (kLayers - 1) * 0.5},
          {"fusedkv-lite", {{"preset", "fusedkv-lite"}, {"layer", 3}}, 4 + 4}};
}

kvcache::AttentionShape Shape(int kv_heads) { return {kLayers, 4, kv_heads, 8}; }

// A dtype of the cache, and bytes of a key and of a value of 8 dimensions; int8 has a scale.
struct CacheKind {
  std::string dtype;
  int key_bytes;
  int value_bytes;
};
const std::vector<CacheKind> kCaches = {{"f32", 8 * 4, 8 * 4},
                                        {"bf16", 8 * 2, 8 * 2},
                                        {"int8", 8 + 4, 8 + 4},
                                        {"k=int8,v=bf16", 8 + 4, 8 * 2}};

engine::EngineOptions Options(const std::filesystem::path& dir, const std::string& cache_dtype) {
  return {.model_dir = dir,
          .device = "cpu",
          .threads = 1,
          .cache_dtype = cache_dtype,
          .cross_layer = {},
          .cache_bytes = size_t{24} << 20,
          .block_tokens = 8,
          .max_batch_tokens = 256,
          .max_prefill_chunk = 32};
}

TEST(CacheBytesTest, RatiosFollowTheFormulas) {
  for (const auto& [cache_dtype, key_bytes, value_bytes] : kCaches) {
    for (const int kv_heads : {4, 2}) {
      for (const PlanBytes& plan : Plans(kv_heads)) {
        SCOPED_TRACE(plan.name + ", kv heads " + std::to_string(kv_heads) + ", " + cache_dtype);
        const ScratchDir scratch;
        const TinyModel model =
            MakeTinyModel({.attention = Shape(kv_heads), .cross_layer = plan.cross_layer});
        engine::EngineOptions options = Options(WriteModelDir(model, scratch.path()), cache_dtype);
        options.score_reuse = engine::ScoreReuse::kStore;
        EngineRunner runner(options);
        const auto& report = runner.core().model().plan;
        EXPECT_EQ(report.dtype, cache_dtype);
        EXPECT_EQ(static_cast<double>(report.planes.size()), plan.planes * kv_heads);
        const auto keys = std::count_if(report.planes.begin(), report.planes.end(),
                                        [](const auto& plane) { return plane.is_key; });
        const auto values = std::ssize(report.planes) - keys;
        EXPECT_EQ(static_cast<int64_t>(report.key_bytes_per_token), keys * key_bytes);
        EXPECT_EQ(static_cast<int64_t>(report.value_bytes_per_token), values * value_bytes);
        EXPECT_EQ(report.bytes_per_token,
                  report.key_bytes_per_token + report.value_bytes_per_token);
        EXPECT_EQ(static_cast<int>(report.plain_bytes_per_token),
                  kLayers * kv_heads * (key_bytes + value_bytes));
        if (key_bytes == value_bytes) {
          EXPECT_EQ(report.ratio, plan.planes / (2 * kLayers));
        }
        // The paper's gain is capacity: tokens that fit the same bytes, in whole blocks, including
        // the scores of all four heads if they are stored.
        const size_t scores = plan.name == "reuse" ? 4 * sizeof(float) : 0;
        EXPECT_EQ(static_cast<size_t>(runner.core().model().cache_tokens),
                  (size_t{24} << 20) / ((report.bytes_per_token + scores) * 8) * 8);
      }
    }
  }
}

// Stored decode keeps a f32 logit a context token for each score head alive at once: all H heads if
// a layer's scores are applied to other values, none if finished outputs are reused.
TEST(CacheBytesTest, ScoreBytes) {
  for (const PlanBytes& plan : Plans(4)) {
    SCOPED_TRACE(plan.name);
    const ScratchDir scratch;
    const TinyModel model = MakeTinyModel({.attention = Shape(4), .cross_layer = plan.cross_layer});
    EngineRunner runner(Options(WriteModelDir(model, scratch.path()), "f32"));
    EXPECT_EQ(runner.core().model().plan.score_bytes_per_token,
              plan.name == "reuse" ? 4 * sizeof(float) : 0U);
  }
}

// A hundred requests in an arena filled with `poison`; the arena afterwards.
struct Aftermath {
  std::vector<std::byte> arena;
  size_t tokens_computed = 0;
  std::set<int64_t> slots;  // slots to which a token was ever written
  size_t bytes_per_token = 0;
  int64_t bytes_written = 0;  // by the backend's own count
};

Aftermath RunHundred(const engine::EngineOptions& options, std::byte poison) {
  EngineRunner runner(options);
  const auto& cache = runner.core().cache();
  std::byte* const arena = cache.arena().arena;
  const size_t arena_bytes =
      static_cast<size_t>(cache.usage().blocks_total) * cache.planes().block_bytes();
  std::memset(arena, static_cast<int>(poison), arena_bytes);
  Aftermath after;
  after.bytes_per_token = runner.core().model().plan.bytes_per_token;
  for (int32_t i = 0; i < 100; ++i) {
    const int32_t prompt = 1 + i * 7 % 45;
    const int32_t generated = 1 + i % 6;
    runner.MustSubmit(std::to_string(i), RandomPrompt(static_cast<uint64_t>(i), prompt, 96),
                      Greedy(generated));
    // The last generated token is never run.
    after.tokens_computed += static_cast<size_t>(prompt + generated - 1);
  }
  runner.core().set_logits_hook([&](const engine::Sequence& sequence, std::span<const float>) {
    for (int32_t position = 0; position < sequence.computed; ++position) {
      after.slots.insert(cache.Slot(sequence.blocks, position));
    }
  });
  runner.Run();
  EXPECT_EQ(runner.blocks_used(), 0);
  after.bytes_written = runner.core().backend().counters().cache_bytes_written;
  after.arena.assign(arena, arena + arena_bytes);
  return after;
}

// Two equal runs on different poisons. A touched byte differs from its poison after one of the
// runs: a written byte has the same value after both and cannot equal both poisons.
TEST(CacheBytesTest, BytesTouchedInAPoisonedArena) {
  constexpr std::byte kPoisons[] = {std::byte{0xA5}, std::byte{0x5A}};
  int combination = 0;
  for (const auto& [cache_dtype, key_bytes, value_bytes] : kCaches) {
    for (const PlanBytes& plan : Plans(4)) {
      if (kSanitized && ++combination % 2 == 0) continue;
      SCOPED_TRACE(plan.name + " " + cache_dtype);
      const ScratchDir scratch;
      const auto dir = WriteModelDir(
          MakeTinyModel({.attention = Shape(4), .cross_layer = plan.cross_layer}), scratch.path());
      const Aftermath first = RunHundred(Options(dir, cache_dtype), kPoisons[0]);
      const Aftermath second = RunHundred(Options(dir, cache_dtype), kPoisons[1]);
      ASSERT_EQ(first.arena.size(), second.arena.size());
      size_t touched = 0;
      const std::byte* one = first.arena.data();
      const std::byte* other = second.arena.data();
      for (const std::byte* const end = one + first.arena.size(); one != end; ++one, ++other) {
        touched += *one != kPoisons[0] || *other != kPoisons[1] ? 1 : 0;
      }
      EXPECT_EQ(touched, first.bytes_per_token * first.slots.size());
      if (key_bytes == value_bytes) {
        EXPECT_EQ(static_cast<double>(touched),
                  plan.planes * 4 * key_bytes * static_cast<double>(first.slots.size()));
      }
      EXPECT_EQ(static_cast<size_t>(first.bytes_written),
                first.bytes_per_token * first.tokens_computed);
      // More than one request used a block, none was computed twice.
      EXPECT_LT(first.slots.size(), first.tokens_computed);
    }
  }
}

// Other tests fill memory that must not be read with bytes of ones: reading it gives NaN, in any
// cache.
TEST(CacheBytesTest, AReaderOfBytesOfOnesSeesThem) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(MakeTinyModel({.attention = Shape(4)}), scratch.path());
  for (const CacheKind& kind : kCaches) {
    SCOPED_TRACE(kind.dtype);
    EngineRunner runner(Options(dir, kind.dtype));
    const auto& cache = runner.core().cache();
    runner.MustSubmit("a", RandomPrompt(1, 20, 96), Greedy(2));
    runner.Step();
    const size_t block_bytes = cache.planes().block_bytes();
    std::fill_n(cache.arena().arena, static_cast<size_t>(cache.usage().blocks_total) * block_bytes,
                std::byte{0xff});
    runner.Step();
    ASSERT_EQ(runner["a"].logits.size(), 2U);
    EXPECT_FALSE(std::isnan(runner["a"].logits[0][0]));
    EXPECT_TRUE(std::isnan(runner["a"].logits[1][0]));
  }
}

}  // namespace
}  // namespace strata::testing::cache_bytes_test
