#include "engine/model/rope.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "gtest/gtest.h"

namespace strata::engine::rope_test {
namespace {

TEST(RopeTableTest, HoldsCosinesThenSinesOfEveryPosition) {
  const std::vector<float> table = RopeTable({.theta = 100.0}, 4, 0, 3);
  ASSERT_EQ(table.size(), 12U);
  for (size_t position = 0; position < 3; ++position) {
    const auto at = static_cast<double>(position);
    EXPECT_EQ(table[4 * position + 0], static_cast<float>(std::cos(at)));
    EXPECT_EQ(table[4 * position + 1], static_cast<float>(std::cos(at * 0.1)));
    EXPECT_EQ(table[4 * position + 2], static_cast<float>(std::sin(at)));
    EXPECT_EQ(table[4 * position + 3], static_cast<float>(std::sin(at * 0.1)));
  }
}

TEST(RopeTableTest, LinearScalingSlowsEveryAngle) {
  const RopeSpec rope = {.theta = 100.0, .scaling = RopeSpec::Scaling::kLinear, .factor = 4.0};
  const std::vector<float> table = RopeTable(rope, 2, 0, 5);
  EXPECT_EQ(table[2 * 4 + 1], static_cast<float>(std::sin(1.0)));
}

// Llama 3.1's settings; expected values by transformers' formula in wavelengths, worked by hand:
// pair 0 turns 1303.8 times in 8192 positions (kept), pair 29 of 64 3.4 times (blended), pair 63
// 0.003 times (slowed by 8).
TEST(RopeTableTest, Llama3SlowsLowFrequenciesOnly) {
  const RopeSpec rope = {.theta = 500000.0,
                         .scaling = RopeSpec::Scaling::kLlama3,
                         .factor = 8.0,
                         .low_freq_factor = 1.0,
                         .high_freq_factor = 4.0,
                         .original_max_positions = 8192};
  const std::vector<float> table = RopeTable(rope, 128, 0, 2);
  const auto frequency = [](int j) { return std::pow(500000.0, -j / 64.0); };
  const auto angle = [&](size_t j) { return static_cast<double>(table[128 + 64 + j]); };
  EXPECT_EQ(table[128 + 64], static_cast<float>(std::sin(1.0)));
  EXPECT_NEAR(angle(63), std::sin(frequency(63) / 8), 1e-13);
  const double wavelength = 2 * std::numbers::pi / frequency(29);
  ASSERT_GT(wavelength, 8192 / 4.0);
  ASSERT_LT(wavelength, 8192 / 1.0);
  const double smooth = (8192 / wavelength - 1) / (4 - 1);
  EXPECT_NEAR(angle(29), std::sin((1 - smooth) * frequency(29) / 8 + smooth * frequency(29)), 1e-9);
}

}  // namespace
}  // namespace strata::engine::rope_test
