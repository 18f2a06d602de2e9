#include "kernels/cpu/logits.h"

#include <limits>

#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::logits_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
const std::vector<int64_t> kSizes = {1, 2, 15, 16, 17, 63, 64, 65, 511, 513, 2048, 5003};

// Some equal, some impossible.
std::vector<float> SomeLogits(int64_t size) {
  Random random(static_cast<uint32_t>(size));
  std::vector<float> logits = random.Normals(size, 6.0f);
  for (float& logit : logits) {
    const int64_t kind = random.Below(20);
    if (kind < 3) logit = std::round(logit);
    if (kind == 3) logit = -kInfinity;
    if (kind == 4) logit = random.Below(2) == 0 ? kNan : kInfinity;
  }
  return logits;
}

int64_t FirstHighest(const std::vector<float>& logits) {
  int64_t best = -1;
  for (int64_t i = 0; i < std::ssize(logits); ++i) {
    const float logit = logits[static_cast<size_t>(i)];
    if (!std::isfinite(logit)) continue;
    if (best < 0 || logit > logits[static_cast<size_t>(best)]) best = i;
  }
  return best;
}

TEST(ArgMaxLogitTest, FindsTheFirstOfTheHighest) {
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    for (const int64_t size : kSizes) {
      const std::vector<float> logits = SomeLogits(size);
      EXPECT_EQ(ArgMaxLogit(logits), FirstHighest(logits)) << size;
    }
    EXPECT_EQ(ArgMaxLogit(std::vector<float>(100, kNan)), -1);
    EXPECT_EQ(ArgMaxLogit(std::vector<float>(100, -kInfinity)), -1);
    EXPECT_EQ(ArgMaxLogit(std::vector<float>(100, kInfinity)), -1);
    EXPECT_EQ(ArgMaxLogit(std::vector<float>(100, -std::numeric_limits<float>::max())), 0);
  }
}

struct Weighed {
  std::vector<float> weights;
  std::vector<uint16_t> bins;
};

// Runs on every instruction set, with marks after the ends.
Weighed WeighEverywhere(const std::vector<float>& logits, const LogitWeighing& how) {
  constexpr float kMark = -7;
  Weighed first;
  for (const int64_t target : AllTargets()) {
    const ScopedTarget scoped(target);
    Weighed now = {std::vector<float>(logits.size() + 1, kMark),
                   std::vector<uint16_t>(logits.size() + 1, 7777)};
    WeighLogits(logits, how, std::span(now.weights).first(logits.size()),
                std::span(now.bins).first(logits.size()));
    EXPECT_EQ(now.weights.back(), kMark);
    EXPECT_EQ(now.bins.back(), 7777);
    now.weights.pop_back();
    now.bins.pop_back();
    if (first.weights.empty()) first = now;
    ExpectSameBits(first.weights, now.weights, hwy::TargetName(target));
    EXPECT_EQ(first.bins, now.bins) << hwy::TargetName(target);
  }
  return first;
}

TEST(WeighLogitsTest, MatchesOracle) {
  for (const int64_t size : kSizes) {
    const std::vector<float> logits = SomeLogits(size);
    const int64_t highest = FirstHighest(logits);
    if (highest < 0) continue;
    const float top = logits[static_cast<size_t>(highest)];
    for (const double temperature : {1.0, 0.3, 1.7, 1e-3, 1e-45, 100.0}) {
      for (const float floor : {-kInfinity, -3.0f, 0.0f}) {
        const Weighed got =
            WeighEverywhere(logits, {.top = top, .temperature = temperature, .floor = floor});
        for (size_t i = 0; i < logits.size(); ++i) {
          if (!std::isfinite(logits[i])) {
            EXPECT_EQ(got.weights[i], 0);
            EXPECT_EQ(got.bins[i], kNumLogitBins);
            continue;
          }
          const double x = (double{logits[i]} - double{top}) / temperature;
          // Near an edge, within 2^-22 of it, rounding may put x on either side.
          const double slack = 1e-6 * std::abs(x);
          if (x < double{floor} - slack) {
            EXPECT_EQ(got.bins[i], kNumLogitBins) << x;
          }
          if (x < double{floor} + slack && x != double{floor}) continue;
          const double weight = x < -87.33 ? 0 : std::exp(x);
          EXPECT_NEAR(static_cast<double>(got.weights[i]), weight, 8 * kUnit * weight + 1e-38);
          const double place = -x * double{kLogitBinsPerNat};
          const double last = kNumLogitBins - 1;
          EXPECT_GE(got.bins[i], std::min(std::floor(place * (1 - 1e-6)), last)) << x;
          EXPECT_LE(got.bins[i], std::min(std::floor(place * (1 + 1e-6)), last)) << x;
        }
      }
    }
  }
}

TEST(WeighLogitsTest, HigherLogitsAreInNoLaterBins) {
  Random random(3);
  std::vector<float> logits = random.Normals(20000, 0.05f);
  std::sort(logits.begin(), logits.end(), std::greater<>());
  for (const double temperature : {0.01, 0.7, 1.3}) {
    const Weighed got = WeighEverywhere(
        logits, {.top = logits[0], .temperature = temperature, .floor = -kInfinity});
    EXPECT_TRUE(std::is_sorted(got.bins.begin(), got.bins.end()));
  }
}

TEST(SumExpLogitsTest, MatchesOracleOnEveryInstructionSet) {
  for (const int64_t size : kSizes) {
    const std::vector<float> logits = SomeLogits(size);
    const int64_t highest = FirstHighest(logits);
    if (highest < 0) continue;
    const float top = logits[static_cast<size_t>(highest)];
    double expected = 0;
    for (const float logit : logits) {
      if (std::isfinite(logit)) expected += std::exp(double{logit} - double{top});
    }
    double first = 0;
    for (const int64_t target : AllTargets()) {
      const ScopedTarget scoped(target);
      const double sum = SumExpLogits(logits, top);
      // The difference of two floats rounds: at most |x| e^x <= 0.37 times the result's rounding.
      // exp adds 2 units in the last place.
      EXPECT_NEAR(sum, expected, 5 * kUnit * expected + 0.37 * kUnit * static_cast<double>(size));
      if (first == 0) first = sum;
      EXPECT_EQ(sum, first) << hwy::TargetName(target);
    }
  }
}

}  // namespace
}  // namespace strata::kernels::logits_test
