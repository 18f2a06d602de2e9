#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/sampler.h"

namespace strata::engine::logprobs_test {
namespace {

using testing::LogprobsOf;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> RandomLogits(std::mt19937* random, size_t size) {
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = std::round(normal(*random) * 8) / 8;  // with ties
  return logits;
}

TEST(LogprobsTest, AgreesWithAFullSort) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> logits = RandomLogits(&random, 1 + random() % 300);
    const auto token = static_cast<int32_t>(random() % logits.size());
    const auto top = static_cast<int32_t>(random() % 21);
    std::vector<std::pair<double, int32_t>> sorted;
    double total = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      sorted.emplace_back(-logits[i], static_cast<int32_t>(i));
      total += std::exp(static_cast<double>(logits[i]));
    }
    std::sort(sorted.begin(), sorted.end());
    const TokenLogprobs found = LogprobsOf(logits, token, top);
    const double own = static_cast<double>(logits[static_cast<size_t>(token)]) - std::log(total);
    EXPECT_NEAR(found.logprob, own, 1e-6 * (1 + std::abs(own)));
    EXPECT_EQ(sorted[static_cast<size_t>(found.rank - 1)].second, token);
    ASSERT_EQ(found.top.size(), std::min(static_cast<size_t>(top), logits.size()));
    for (size_t i = 0; i < found.top.size(); ++i) {
      EXPECT_EQ(found.top[i].id, sorted[i].second);
      const double expected = -sorted[i].first - std::log(total);
      EXPECT_NEAR(found.top[i].logprob, expected, 1e-6 * (1 + std::abs(expected)));
    }
    if (found.rank <= top) {
      EXPECT_EQ(found.top[static_cast<size_t>(found.rank - 1)].logprob, found.logprob);
    }
  }
}

TEST(LogprobsTest, AllTogetherAreOne) {
  std::mt19937 random(12);
  const std::vector<float> logits = RandomLogits(&random, 5000);
  double sum = 0;
  for (int32_t id = 0; id < 5000; ++id) sum += std::exp(LogprobsOf(logits, id, 0).logprob);
  EXPECT_NEAR(sum, 1, 1e-6);  // each is a float
}

TEST(LogprobsTest, ExtremeLogitsNeitherOverflowNorVanish) {
  const TokenLogprobs high = LogprobsOf(std::vector<float>{3e38F, 3e38F, -3e38F}, 1, 2);
  EXPECT_NEAR(high.logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(high.rank, 2);
  const TokenLogprobs low = LogprobsOf(std::vector<float>{0, -200}, 1, 0);
  EXPECT_FLOAT_EQ(low.logprob, -200);  // its probability is too small for a float
  EXPECT_TRUE(low.top.empty());
}

TEST(LogprobsTest, NonFiniteLogitsAreImpossible) {
  const std::vector<float> logits = {kNan, 1, kInfinity, 1, -kInfinity};
  const TokenLogprobs found = LogprobsOf(logits, 1, 20);
  EXPECT_NEAR(found.logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(found.rank, 1);
  ASSERT_EQ(found.top.size(), 2U);
  EXPECT_EQ(found.top[1].id, 3);
  const TokenLogprobs impossible = LogprobsOf(logits, 2, 0);
  EXPECT_EQ(impossible.logprob, -kInfinity);
  EXPECT_EQ(impossible.rank, 4);  // after 1, 3 and 0
  const TokenLogprobs none = LogprobsOf(std::vector<float>{kNan, -kInfinity}, 0, 3);
  EXPECT_EQ(none.logprob, -kInfinity);
  EXPECT_EQ(none.rank, 1);
  EXPECT_TRUE(none.top.empty());
}

}  // namespace
}  // namespace strata::engine::logprobs_test
