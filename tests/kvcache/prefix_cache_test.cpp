#include "kvcache/blocks/prefix_cache.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace strata::kvcache::prefix_cache_test {
namespace {

using Tokens = std::vector<int32_t>;
constexpr int32_t kNone = PrefixCache::kNone;

TEST(PrefixCache, FindsABlockByWhatStandsBeforeIt) {
  PrefixCache cache(8, 2);
  EXPECT_EQ(cache.Find(kNone, "", Tokens{1, 2}), kNone);
  cache.Insert(kNone, "", Tokens{1, 2}, 5);
  cache.Insert(5, "", Tokens{1, 2}, 3);
  cache.Insert(5, "", Tokens{2, 1}, 4);
  EXPECT_EQ(cache.Find(kNone, "", Tokens{1, 2}), 5);
  EXPECT_EQ(cache.Find(5, "", Tokens{1, 2}), 3);
  EXPECT_EQ(cache.Find(5, "", Tokens{2, 1}), 4);
  EXPECT_EQ(cache.Find(3, "", Tokens{1, 2}), kNone);
  EXPECT_EQ(cache.Find(kNone, "", Tokens{2, 1}), kNone);
  EXPECT_EQ(cache.size(), 3);
  EXPECT_TRUE(cache.CheckIntegrity().ok()) << cache.CheckIntegrity();
}

TEST(PrefixCache, KeepsSaltsApart) {
  PrefixCache cache(8, 2);
  cache.Insert(kNone, "", Tokens{1, 2}, 0);
  cache.Insert(kNone, "a", Tokens{1, 2}, 1);
  cache.Insert(kNone, "b", Tokens{1, 2}, 2);
  cache.Insert(1, "a", Tokens{3, 4}, 3);
  EXPECT_EQ(cache.Find(kNone, "", Tokens{1, 2}), 0);
  EXPECT_EQ(cache.Find(kNone, "a", Tokens{1, 2}), 1);
  EXPECT_EQ(cache.Find(kNone, "b", Tokens{1, 2}), 2);
  EXPECT_EQ(cache.Find(kNone, "c", Tokens{1, 2}), kNone);
  EXPECT_EQ(cache.Find(2, "b", Tokens{3, 4}), kNone);
  cache.Erase(3);
  cache.Erase(1);
  EXPECT_EQ(cache.Find(kNone, "a", Tokens{1, 2}), kNone);
  EXPECT_EQ(cache.Find(kNone, "", Tokens{1, 2}), 0);
  EXPECT_TRUE(cache.CheckIntegrity().ok()) << cache.CheckIntegrity();
}

// The index compares names if a few bits of their hashes agree: with thousands of names that differ
// in only one place, each part of a name is compared.
TEST(PrefixCache, NamesThatDifferAnywhereAreApart) {
  constexpr int32_t kEntries = 400;
  constexpr int32_t kOthers = 20000;
  const auto name = [](int32_t i) { return "tenant " + std::to_string(i); };
  {
    PrefixCache cache(kEntries, 2);  // by salt
    for (int32_t i = 0; i < kEntries; ++i) cache.Insert(kNone, name(i), Tokens{1, 2}, i);
    for (int32_t i = 0; i < kOthers; ++i) {
      ASSERT_EQ(cache.Find(kNone, name(i), Tokens{1, 2}), i < kEntries ? i : kNone) << i;
    }
  }
  for (const bool first : {true, false}) {  // by one of the tokens
    const auto tokens = [first](int32_t i) { return first ? Tokens{i, 7} : Tokens{7, i}; };
    PrefixCache cache(kEntries, 2);
    for (int32_t i = 0; i < kEntries; ++i) cache.Insert(kNone, "s", tokens(i), i);
    for (int32_t i = 0; i < kOthers; ++i) {
      ASSERT_EQ(cache.Find(kNone, "s", tokens(i)), i < kEntries ? i : kNone) << i;
    }
  }
  PrefixCache cache(2 * kEntries, 2);  // by the block before
  for (int32_t i = 0; i < kEntries; ++i) {
    cache.Insert(kNone, "s", Tokens{i, i}, i);
    if (i % 2 == 0) cache.Insert(i, "s", Tokens{1, 2}, kEntries + i);
  }
  for (int32_t i = 0; i < kEntries; ++i) {
    ASSERT_EQ(cache.Find(i, "s", Tokens{1, 2}), i % 2 == 0 ? kEntries + i : kNone) << i;
  }
}

// A block that was erased and now holds other tokens is another entry: blocks after the old entry
// are not found after the new one.
TEST(PrefixCache, ABlockUsedAgainIsAnotherEntry) {
  PrefixCache cache(4, 1);
  cache.Insert(kNone, "", Tokens{1}, 0);
  cache.Insert(0, "", Tokens{2}, 1);
  cache.Erase(1);
  cache.Erase(0);
  cache.Insert(kNone, "", Tokens{9}, 0);
  EXPECT_EQ(cache.Find(0, "", Tokens{2}), kNone);
  EXPECT_EQ(cache.size(), 1);
}

TEST(PrefixCacheDeathTest, OurBugsEndTheProcess) {
  PrefixCache cache(4, 2);
  cache.Insert(kNone, "", Tokens{1, 2}, 0);
  cache.Insert(0, "", Tokens{1, 2}, 1);
  EXPECT_DEATH(cache.Erase(0), "none comes after");
  EXPECT_DEATH(cache.Erase(2), "none comes after");
  EXPECT_DEATH(cache.Find(2, "", Tokens{1, 2}), "the block before has an entry");
  EXPECT_DEATH(cache.Find(0, "", Tokens{1}), "the tokens of one block");
  EXPECT_DEATH(cache.Insert(kNone, "", Tokens{5, 6}, 1), "one entry");
  EXPECT_DEATH(cache.Insert(kNone, "", Tokens{1, 2}, 3), "one block");
}

// Compares with a map from the whole text up to the end of a block.
TEST(PrefixCache, AgreesWithAMapOfWholePrefixes) {
  constexpr int32_t kBlocks = 40;
  std::mt19937 random(3);
  PrefixCache cache(kBlocks, 2);
  std::map<std::pair<std::string, Tokens>, int32_t> known;
  std::map<int32_t, std::pair<std::string, Tokens>> names;
  const auto below = [&](uint32_t limit) { return static_cast<int32_t>(random() % limit); };
  for (int step = 0; step < 20000; ++step) {
    const std::string salt(below(3) == 0 ? 1 : 0, 's');
    Tokens tokens;
    int32_t parent = kNone;
    for (int depth = 0; depth < 4; ++depth) {
      const Tokens block = {below(2), below(2)};
      tokens.insert(tokens.end(), block.begin(), block.end());
      const auto expected = known.find({salt, tokens});
      const int32_t found = cache.Find(parent, salt, block);
      ASSERT_EQ(found, expected == known.end() ? kNone : expected->second);
      if (found != kNone) {
        parent = found;
        continue;
      }
      const int32_t free = below(kBlocks);
      if (cache.contains(free)) break;
      cache.Insert(parent, salt, block, free);
      known[{salt, tokens}] = free;
      names[free] = {salt, tokens};
      break;
    }
    const int32_t victim = below(kBlocks);
    const bool inner = std::any_of(names.begin(), names.end(), [&](const auto& other) {
      const auto own = names.find(victim);
      if (own == names.end() || other.second.first != own->second.first) return false;
      const Tokens& longer = other.second.second;
      const Tokens& shorter = own->second.second;
      return longer.size() > shorter.size() &&
             std::equal(shorter.begin(), shorter.end(), longer.begin());
    });
    if (cache.contains(victim) && !inner && below(3) == 0) {
      cache.Erase(victim);
      known.erase(names[victim]);
      names.erase(victim);
    }
    ASSERT_EQ(cache.size(), std::ssize(known));
    if (step % 50 != 0) continue;
    ASSERT_TRUE(cache.CheckIntegrity().ok()) << cache.CheckIntegrity();
  }
}

}  // namespace
}  // namespace strata::kvcache::prefix_cache_test
