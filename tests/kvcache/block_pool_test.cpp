#include "kvcache/blocks/block_pool.h"

#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace strata::kvcache::block_pool_test {
namespace {

TEST(BlockPool, GivesEveryBlockOnce) {
  BlockPool pool(3);
  std::vector<BlockRef> held;
  for (int32_t id = 0; id < 3; ++id) {
    std::optional<BlockRef> block = pool.Allocate();
    ASSERT_TRUE(block.has_value());
    EXPECT_EQ(block->id(), id);
    held.push_back(*std::move(block));
  }
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_EQ(pool.num_held(), 3);
  EXPECT_EQ(pool.num_free(), 0);
}

TEST(BlockPool, AnEmptyPoolIsAllowed) {
  BlockPool pool(0);
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPool, GivesTheLastFreedFirst) {
  BlockPool pool(4);
  BlockRef first = *pool.Allocate();
  BlockRef second = *pool.Allocate();
  first = BlockRef();
  EXPECT_EQ(pool.Allocate()->id(), 0);
  second = BlockRef();
  EXPECT_EQ(pool.Allocate()->id(), 1);
}

TEST(BlockRef, CopiesHold) {
  BlockPool pool(2);
  BlockRef block = *pool.Allocate();
  EXPECT_EQ(pool.count(0), 1);
  {
    const BlockRef copy = block;
    EXPECT_EQ(pool.count(0), 2);
    EXPECT_EQ(copy.id(), block.id());
  }
  EXPECT_EQ(pool.count(0), 1);
  BlockRef moved = std::move(block);
  EXPECT_EQ(pool.count(0), 1);
  EXPECT_TRUE(moved);
  const BlockRef& itself = moved;
  moved = itself;
  EXPECT_EQ(pool.count(0), 1);
  moved = BlockRef();
  EXPECT_EQ(pool.count(0), 0);
  EXPECT_FALSE(moved);
  EXPECT_EQ(pool.num_free(), 2);
}

TEST(BlockPoolDeathTest, OurBugsEndTheProcess) {
  EXPECT_DEATH(BlockRef().id(), "a hold on a block");
  EXPECT_DEATH(BlockPool(-1), "a number of blocks");
  EXPECT_DEATH(
      {
        BlockRef outlives;
        BlockPool pool(1);
        outlives = *pool.Allocate();
        // Destroyed in reverse order: the pool first.
      },
      "every block is back");
}

TEST(BlockPool, KeptBlocksGoIdleAndComeBack) {
  BlockPool pool(4);
  std::vector<BlockRef> held;
  for (int i = 0; i < 4; ++i) held.push_back(*pool.Allocate());
  for (int32_t id : {0, 1, 2}) pool.Keep(id);
  EXPECT_EQ(pool.oldest_idle(), -1);
  std::swap(held[0], held[2]);
  held.clear();  // 2, 1, 0 and 3
  EXPECT_EQ(pool.num_idle(), 3);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.num_held(), 0);
  EXPECT_EQ(pool.oldest_idle(), 2);
  EXPECT_TRUE(pool.CheckIntegrity().ok()) << pool.CheckIntegrity();

  BlockRef oldest = pool.Share(2);
  EXPECT_EQ(pool.oldest_idle(), 1);
  EXPECT_EQ(pool.num_held(), 1);
  oldest = BlockRef();  // now the youngest idle block
  EXPECT_EQ(pool.oldest_idle(), 1);
  pool.Forget(1);
  EXPECT_EQ(pool.oldest_idle(), 0);
  EXPECT_EQ(pool.num_free(), 2);
  oldest = pool.Share(0);
  pool.Forget(0);  // held: free when it comes back
  EXPECT_EQ(pool.num_free(), 2);
  oldest = BlockRef();
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.oldest_idle(), 2);
  EXPECT_TRUE(pool.CheckIntegrity().ok()) << pool.CheckIntegrity();
  EXPECT_DEATH(pool.Share(1), "a held or idle block");
  EXPECT_DEATH(pool.Keep(2), "only a held block is kept");
  EXPECT_DEATH(pool.Forget(3), "only a kept block is forgotten");
}

TEST(BlockPool, SurvivesRandomOperations) {
  std::mt19937 random(7);
  BlockPool pool(16);
  std::vector<BlockRef> held;
  for (int step = 0; step < 20000; ++step) {
    const size_t any = held.empty() ? 0 : random() % held.size();
    switch (random() % 8) {
      case 0:
      case 1:
        if (std::optional<BlockRef> block = pool.Allocate()) {
          held.push_back(*std::move(block));
        } else {
          ASSERT_EQ(pool.num_free(), 0);
          held.clear();  // start again
        }
        break;
      case 2:
        if (!held.empty() && held.size() < 64) held.push_back(BlockRef(held[any]));
        break;
      case 3:
        if (!held.empty()) held[any] = held[random() % held.size()];
        break;
      case 4:
        if (!held.empty()) pool.Keep(held[any].id());
        break;
      case 5:
        if (pool.oldest_idle() >= 0) held.push_back(pool.Share(pool.oldest_idle()));
        break;
      case 6:
        if (pool.oldest_idle() >= 0) pool.Forget(pool.oldest_idle());
        break;
      default:
        if (!held.empty()) {
          std::swap(held[any], held.back());
          held.pop_back();
        }
    }
    ASSERT_TRUE(pool.CheckIntegrity().ok()) << pool.CheckIntegrity();
    std::vector<int32_t> counts(16);
    for (const BlockRef& block : held) ++counts[static_cast<size_t>(block.id())];
    for (int32_t id = 0; id < 16; ++id) {
      ASSERT_EQ(pool.count(id), counts[static_cast<size_t>(id)]) << "block " << id;
    }
  }
}

}  // namespace
}  // namespace strata::kvcache::block_pool_test
