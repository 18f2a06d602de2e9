#include "kvcache/blocks/cache_manager.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/plan/plan_parser.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache::cache_manager_test {
namespace {

constexpr AttentionShape kShape = {
    .num_layers = 4, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr size_t kPlainBlock = 4 * 2 * 2 * 8 * 4 * 16;  // bytes of 16 tokens in f32

std::unique_ptr<kernels::Backend> MakeBackend() {
  absl::StatusOr<std::unique_ptr<kernels::Backend>> backend =
      kernels::CreateBackend({.device = "cpu", .threads = 1});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

struct Options {
  size_t cache_bytes = size_t{64} << 20;
  int32_t block_tokens = 16;
  CacheFormats dtypes = {};
  bool store_scores = false;
};

class CacheManagerTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<CacheManager>> Create(const SharingPlan& plan,
                                                       const Options& options) {
    return CacheManager::Create(
        backend_.get(), PlaneMap(plan, options.dtypes, options.block_tokens),
        {.cache_bytes = options.cache_bytes, .store_scores = options.store_scores});
  }
  std::unique_ptr<CacheManager> Make(const SharingPlan& plan, const Options& options) {
    absl::StatusOr<std::unique_ptr<CacheManager>> cache = Create(plan, options);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  absl::Status Refusal(const Options& options) {
    return Create(SharingPlan::Plain(kShape), options).status();
  }

  std::unique_ptr<kernels::Backend> backend_ = MakeBackend();
};

TEST_F(CacheManagerTest, FillsTheBudgetWithWholeBlocks) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 3 * kPlainBlock + 100});
  EXPECT_EQ(cache->available(), 3);
  EXPECT_EQ(cache->capacity_tokens(), 48);
  EXPECT_EQ(cache->arena_bytes(), 3 * kPlainBlock);
  const kernels::PagedArena arena = cache->arena();
  EXPECT_NE(arena.arena, nullptr);
  EXPECT_EQ(arena.place_bytes, kPlainBlock);
  EXPECT_EQ(arena.block_tokens, 16);
  EXPECT_EQ(arena.block_groups, 1);
  EXPECT_EQ(arena.key_format, kernels::PlaneFormat::kF32);
  EXPECT_EQ(arena.value_format, kernels::PlaneFormat::kF32);
  std::memset(arena.arena, 1, cache->arena_bytes());
}

TEST_F(CacheManagerTest, SharingBuysCapacity) {
  const SharingPlan plan = *ParsePlan(nlohmann::json{{"preset", "cla"}, {"factor", 2}}, kShape);
  EXPECT_EQ(Make(plan, {.cache_bytes = 8 * kPlainBlock})->capacity_tokens(), 2 * 8 * 16);
}

TEST_F(CacheManagerTest, RefusesABudgetBelowABlock) {
  const absl::Status status = Refusal({.cache_bytes = kPlainBlock - 1, .block_tokens = 16});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "cache_bytes: 8191 is less than one block of 16 tokens, 8192 bytes");
}

TEST_F(CacheManagerTest, SaysWhenMemoryIsShort) {
  // 2^31 - 1 blocks of 32 MiB: more than a process can address, so no machine has it.
  const absl::Status status = Refusal({.cache_bytes = size_t{1} << 60, .block_tokens = 65536});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(status.message().find("cache of 2147483647 blocks: "), 0U) << status;
}

TEST_F(CacheManagerTest, CountsBlocks) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock});
  EXPECT_EQ(cache->BlocksFor(0), 0);
  EXPECT_EQ(cache->BlocksFor(1), 1);
  EXPECT_EQ(cache->BlocksFor(16), 1);
  EXPECT_EQ(cache->BlocksFor(17), 2);
  EXPECT_EQ(cache->BlocksFor(std::numeric_limits<int64_t>::max()),
            std::numeric_limits<int32_t>::max());
}

TEST_F(CacheManagerTest, GrowsOrLeavesAlone) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock});
  BlockTable first;
  BlockTable second;
  EXPECT_TRUE(cache->Grow(first, 33));
  EXPECT_EQ(first.num_blocks(), 3);
  EXPECT_TRUE(cache->Grow(first, 48)) << "already covered";
  EXPECT_EQ(first.num_blocks(), 3);
  EXPECT_TRUE(cache->Grow(first, 1)) << "never shrinks";
  EXPECT_EQ(first.num_blocks(), 3);
  EXPECT_FALSE(cache->Grow(second, 17));
  EXPECT_EQ(second.num_blocks(), 0);
  EXPECT_EQ(cache->available(), 1);
  EXPECT_FALSE(cache->Grow(second, std::numeric_limits<int64_t>::max()));
  EXPECT_TRUE(cache->Grow(second, 16));
  const BlockTable* tables[] = {&first, &second};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok());
}

TEST_F(CacheManagerTest, SlotsFollowTheTable) {
  const auto cache =
      Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock, .block_tokens = 8});
  BlockTable hole;
  BlockTable table;
  ASSERT_TRUE(cache->Grow(hole, 8));
  ASSERT_TRUE(cache->Grow(table, 8));
  hole = BlockTable();
  ASSERT_TRUE(cache->Grow(table, 24));  // blocks 1, 0, 2
  EXPECT_EQ(std::vector<int32_t>(table.ids().begin(), table.ids().end()),
            (std::vector<int32_t>{1, 0, 2}));
  EXPECT_EQ(cache->Slot(table, 0), 8);
  EXPECT_EQ(cache->Slot(table, 7), 15);
  EXPECT_EQ(cache->Slot(table, 8), 0);
  EXPECT_EQ(cache->Slot(table, 23), 23);
  EXPECT_DEATH(cache->Slot(table, 24), "a position that the table covers");
  EXPECT_DEATH(cache->Slot(table, -1), "a position that the table covers");
}

TEST_F(CacheManagerTest, FewerPlanesAreMoreBlocks) {
  const SharingPlan plan = *ParsePlan(nlohmann::json{{"preset", "svformer"}}, kShape);
  const auto cache = Make(plan, {.cache_bytes = 10 * kPlainBlock});
  BlockTable table;
  ASSERT_TRUE(cache->Grow(table, 20));
  EXPECT_EQ(cache->usage().blocks_total, 16);  // 8/5 of the plain cache's
  EXPECT_EQ(cache->usage().blocks_used, 2);
  table = BlockTable();
  EXPECT_EQ(cache->usage().blocks_used, 0);
}

TEST_F(CacheManagerTest, KeysAndValuesHaveTheirOwnDTypes) {
  const SharingPlan plan = *ParsePlan(nlohmann::json{{"preset", "svformer"}}, kShape);
  const auto cache =
      Make(plan, {.cache_bytes = 10 * kPlainBlock,
                  .dtypes = {kernels::PlaneFormat::kI8, kernels::PlaneFormat::kBF16}});
  EXPECT_EQ(cache->arena().key_format, kernels::PlaneFormat::kI8);
  EXPECT_EQ(cache->arena().value_format, kernels::PlaneFormat::kBF16);
  EXPECT_EQ(cache->arena().place_bytes, 16U * (8 * (8 + 4) + 2 * 8 * 2));
  EXPECT_EQ(cache->usage().blocks_total, 40);  // of 2048 bytes
}

TEST_F(CacheManagerTest, MovedTablesTakeTheirBlocksAlong) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock});
  BlockTable from;
  ASSERT_TRUE(cache->Grow(from, 32));
  const BlockTable to = std::move(from);
  EXPECT_EQ(to.num_blocks(), 2);
  EXPECT_EQ(cache->available(), 2);
  const BlockTable* tables[] = {&to};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok());
}

TEST_F(CacheManagerTest, IntegrityNamesABlockThatNoTableLists) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock});
  BlockTable table;
  ASSERT_TRUE(cache->Grow(table, 32));
  const absl::Status lost = cache->CheckIntegrity({});
  EXPECT_EQ(lost.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(lost.message(), "block 0 is held 1 times, by tables 0");
  const BlockTable* twice[] = {&table, &table};
  EXPECT_EQ(cache->CheckIntegrity(twice).message(), "block 0 is held 1 times, by tables 2");
}

std::vector<int32_t> Count(int32_t from, int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), from);
  return tokens;
}

TEST_F(CacheManagerTest, PrefixesAreFoundSharedAndEvictedFromTheirEnd) {
  const auto cache =
      Make(SharingPlan::Plain(kShape), {.cache_bytes = 4 * kPlainBlock, .block_tokens = 16});
  const std::vector<int32_t> tokens = Count(0, 64);
  BlockTable first;
  ASSERT_TRUE(cache->Grow(first, 40));
  cache->Publish(first, tokens, "", 40);  // two full blocks
  EXPECT_EQ(cache->FindPrefix(tokens, "").blocks, 2);
  EXPECT_EQ(cache->FindPrefix(tokens, "").idle, 0);
  EXPECT_EQ(cache->FindPrefix(std::span(tokens).first(33), "").blocks, 2);
  EXPECT_EQ(cache->FindPrefix(std::span(tokens).first(32), "").blocks, 1) << "the last is computed";
  EXPECT_EQ(cache->FindPrefix(tokens, "salt").blocks, 0);
  EXPECT_EQ(cache->FindPrefix(Count(1, 64), "").blocks, 0);

  BlockTable second;
  EXPECT_EQ(cache->AttachPrefix(second, tokens, ""), 32);
  EXPECT_EQ(cache->usage().blocks_used, 3);
  first.Clear();
  second.Clear();
  EXPECT_EQ(cache->usage().blocks_used, 0);
  EXPECT_EQ(cache->usage().blocks_cached, 2);
  EXPECT_EQ(cache->usage().blocks_free, 2);
  EXPECT_EQ(cache->available(), 4);

  ASSERT_TRUE(cache->Grow(first, 48));  // takes the second of the two
  EXPECT_EQ(cache->FindPrefix(tokens, "").blocks, 1);
  EXPECT_EQ(cache->FindPrefix(tokens, "").idle, 1);
  ASSERT_TRUE(cache->Grow(first, 64));
  EXPECT_EQ(cache->FindPrefix(tokens, "").blocks, 0);
  const BlockTable* tables[] = {&first, &second};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok()) << cache->CheckIntegrity(tables);
}

TEST_F(CacheManagerTest, WhatTwoComputeAtOnceIsKeptOnce) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 6 * kPlainBlock});
  const std::vector<int32_t> tokens = Count(0, 40);
  BlockTable first;
  BlockTable second;
  ASSERT_TRUE(cache->Grow(first, 40));
  ASSERT_TRUE(cache->Grow(second, 40));
  cache->Publish(first, tokens, "", 16);
  cache->Publish(second, tokens, "", 40);
  EXPECT_EQ(first.ids()[0], second.ids()[0]);
  cache->Publish(first, tokens, "", 40);
  EXPECT_EQ(first.ids()[1], second.ids()[1]);
  EXPECT_NE(first.ids()[2], second.ids()[2]);
  EXPECT_EQ(cache->usage().blocks_used, 4);
  const BlockTable* tables[] = {&first, &second};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok()) << cache->CheckIntegrity(tables);
}

TEST_F(CacheManagerTest, WhatIsPromisedIsThere) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 6 * kPlainBlock});
  BlockTable sure;
  BlockTable other;
  ASSERT_TRUE(cache->Reserve(sure, 4, 0));
  EXPECT_EQ(cache->available(), 2);
  EXPECT_FALSE(cache->Reserve(other, 3, 0));
  EXPECT_FALSE(cache->Grow(other, 48));
  ASSERT_TRUE(cache->Grow(other, 32));
  ASSERT_TRUE(cache->Grow(sure, 20));
  EXPECT_EQ(sure.num_reserved(), 2);
  EXPECT_EQ(cache->available(), 0);
  ASSERT_TRUE(cache->Grow(sure, 64));
  EXPECT_EQ(sure.num_reserved(), 0);
  EXPECT_FALSE(cache->Grow(sure, 65));
  const BlockTable* tables[] = {&sure, &other};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok()) << cache->CheckIntegrity(tables);
  sure = BlockTable();
  ASSERT_TRUE(cache->Reserve(other, 4, 0));
  other.Clear();
  EXPECT_EQ(cache->available(), 6) << "a promise goes with its table";
}

TEST_F(CacheManagerTest, ForksShareFullBlocksAndCopyTheRest) {
  const auto cache = Make(SharingPlan::Plain(kShape), {.cache_bytes = 5 * kPlainBlock});
  BlockTable table;
  ASSERT_TRUE(cache->Grow(table, 40));
  std::byte* const arena = cache->arena().arena;
  const auto block = [&](int32_t id) { return arena + static_cast<size_t>(id) * kPlainBlock; };
  for (int32_t id : table.ids())
    std::fill_n(block(id), kPlainBlock, static_cast<std::byte>(id + 1));
  std::optional<BlockTable> fork = cache->Fork(table, 40, 0, 0);
  ASSERT_TRUE(fork.has_value());
  EXPECT_EQ(fork->ids()[0], table.ids()[0]);
  EXPECT_EQ(fork->ids()[1], table.ids()[1]);
  ASSERT_NE(fork->ids()[2], table.ids()[2]);
  EXPECT_EQ(std::memcmp(block(fork->ids()[2]), block(table.ids()[2]), kPlainBlock), 0);
  const std::optional<BlockTable> whole = cache->Fork(table, 32, 0, 0);
  EXPECT_EQ(whole->num_blocks(), 2);
  ASSERT_TRUE(cache->Grow(*fork, 64));
  EXPECT_FALSE(cache->Fork(table, 40, 0, 0).has_value()) << "no room for the copy";
  EXPECT_EQ(cache->usage().blocks_used, 5);
  const BlockTable* tables[] = {&table, &*fork, &*whole};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok()) << cache->CheckIntegrity(tables);
}

// Layer 0 computes, 1 to 3 reuse: S = 4 heads.
SharingPlan ReusePlan() {
  return *ParsePlan(nlohmann::json{{"preset", "reuse"}, {"compute_layers", {0}}}, kShape);
}

TEST_F(CacheManagerTest, ScoresAndPlanesShareTheBudgetInEqualNumbers) {
  const PlaneMap planes(ReusePlan(), {}, 16);
  EXPECT_EQ(planes.score_block_bytes(), 4 * 4 * 16u);
  const size_t both = planes.block_bytes() + planes.score_block_bytes();
  const auto cache = Make(ReusePlan(), {.cache_bytes = 7 * both + 9, .store_scores = true});
  EXPECT_TRUE(cache->stores_scores());
  EXPECT_EQ(cache->available(), 7);
  EXPECT_EQ(cache->available_scores(), 7);
  EXPECT_EQ(cache->arena_bytes(), 7 * both);
  EXPECT_EQ(cache->arena().score_slots, 4);
  std::fill_n(cache->arena().scores, 7 * 4 * 16, 1.0F);
  const auto routing = Make(ReusePlan(), {.cache_bytes = 7 * both});
  EXPECT_FALSE(routing->stores_scores());
  EXPECT_EQ(routing->arena().scores, nullptr);
  EXPECT_EQ(routing->available(), 7 * both / planes.block_bytes());
  BlockTable table;
  EXPECT_TRUE(routing->GrowScores(table, 1000)) << "there is nothing to take";
  EXPECT_EQ(table.num_score_blocks(), 0);
}

TEST_F(CacheManagerTest, ABlockAndItsScoresMustFit) {
  const PlaneMap planes(ReusePlan(), {}, 16);
  const absl::Status status =
      Create(ReusePlan(), {.cache_bytes = planes.block_bytes() + 10, .store_scores = true})
          .status();
  EXPECT_EQ(status.message(),
            "cache_bytes: 5130 is less than one block of 16 tokens, 5120 bytes and 256 of reused "
            "scores");
}

TEST_F(CacheManagerTest, ForksHaveScoresOfTheirOwn) {
  const auto cache = Make(ReusePlan(), {.cache_bytes = 1 << 16, .store_scores = true});
  BlockTable table;
  ASSERT_TRUE(cache->Grow(table, 32));
  ASSERT_TRUE(cache->Reserve(table, 0, 4));
  std::optional<BlockTable> fork = cache->Fork(table, 32, 0, 2);
  ASSERT_TRUE(fork.has_value());
  EXPECT_EQ(table.num_reserved_scores(), 2);
  EXPECT_EQ(fork->num_reserved_scores(), 2);
  ASSERT_TRUE(cache->GrowScores(table, 33));
  ASSERT_TRUE(cache->GrowScores(*fork, 33));
  EXPECT_EQ(table.ids()[0], fork->ids()[0]);
  for (int32_t id : table.score_ids()) {
    for (int32_t other : fork->score_ids()) EXPECT_NE(id, other);
  }
  EXPECT_EQ(cache->usage().score_blocks_used, 6);
  const BlockTable* tables[] = {&table, &*fork};
  EXPECT_TRUE(cache->CheckIntegrity(tables).ok()) << cache->CheckIntegrity(tables);
  table.Clear();
  fork->Clear();
  EXPECT_EQ(cache->usage().score_blocks_used, 0);
  EXPECT_EQ(cache->available_scores(), cache->usage().score_blocks_total);
}

TEST_F(CacheManagerTest, SurvivesRandomOperations) {
  std::mt19937 random(3);
  const auto cache = Make(ReusePlan(), {.cache_bytes = 40 * kPlainBlock, .store_scores = true});
  std::vector<BlockTable> tables(6);
  for (int step = 0; step < 10000; ++step) {
    BlockTable& table = tables[random() % tables.size()];
    switch (random() % 5) {
      case 0:
        table = BlockTable();
        break;
      case 4: {
        const auto tokens = static_cast<int64_t>(random() % 300);
        const int32_t missing = cache->BlocksFor(tokens) - table.num_score_blocks();
        const int32_t to_be_had = cache->available_scores() + table.num_reserved_scores();
        ASSERT_EQ(cache->GrowScores(table, tokens), missing <= to_be_had);
        const auto promise = static_cast<int32_t>(random() % 9);
        const bool can = promise <= cache->available_scores();
        ASSERT_EQ(cache->Reserve(table, 0, promise), can);
        break;
      }
      case 1:
        std::swap(table, tables[random() % tables.size()]);
        break;
      default: {
        const auto tokens = static_cast<int64_t>(random() % 300);
        const int32_t blocks_before = table.num_blocks();
        const int32_t missing = std::max(0, cache->BlocksFor(tokens) - blocks_before);
        const bool fits = missing <= cache->available();
        ASSERT_EQ(cache->Grow(table, tokens), fits);
        ASSERT_EQ(table.num_blocks(), blocks_before + (fits ? missing : 0));
      }
    }
    std::vector<const BlockTable*> all;
    for (const BlockTable& each : tables) all.push_back(&each);
    ASSERT_TRUE(cache->CheckIntegrity(all).ok()) << cache->CheckIntegrity(all);
  }
}

}  // namespace
}  // namespace strata::kvcache::cache_manager_test
