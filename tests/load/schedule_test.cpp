#include <cmath>
#include <limits>

#include "tests/load/arrivals.h"
#include "tests/load/knee.h"
#include "tests/load/lengths.h"

namespace strata::testing::load_schedule_test {
namespace {

using load::Arrivals;
using load::Lengths;
using load::Seconds;
using load::Time;

constexpr double kInfinite = std::numeric_limits<double>::infinity();

std::vector<double> Gaps(const Arrivals::Options& options, int count) {
  Arrivals arrivals(options);
  std::vector<double> gaps;
  double before = 0;
  for (int i = 0; i < count; ++i) {
    const double at = Seconds(arrivals.Next());
    gaps.push_back(at - before);
    before = at;
  }
  return gaps;
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double Variance(const std::vector<double>& values) {
  const double mean = Mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum / static_cast<double>(values.size());
}

TEST(LoadScheduleTest, GapsHaveTheMeanAndVarianceOfTheirGamma) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    const auto gaps =
        Gaps({.rate = 20, .burstiness = burstiness, .end_rate = {}, .seed = 3}, 100000);
    // Means of 100,000 gaps differ from 1 / rate by their deviation / 316; here by five of those.
    const double mean = 1 / 20.0, variance = mean * mean / burstiness;
    EXPECT_NEAR(Mean(gaps), mean, 5 * std::sqrt(variance / 1e5)) << burstiness;
    EXPECT_NEAR(Variance(gaps) / variance, 1, 0.1) << burstiness;
  }
}

// Kolmogorov's and Smirnov's distance; 1.95 / sqrt(n) is passed by one seed in a thousand.
TEST(LoadScheduleTest, PoissonsGapsAreExponential) {
  auto gaps = Gaps({.rate = 5, .end_rate = {}, .seed = 1}, 20000);
  std::sort(gaps.begin(), gaps.end());
  double distance = 0;
  for (size_t i = 0; i < gaps.size(); ++i) {
    const double expected = 1 - std::exp(-5 * gaps[i]);
    distance = std::max(distance, std::abs(expected - static_cast<double>(i) / 20000));
  }
  EXPECT_LT(distance, 1.95 / std::sqrt(20000.0));
}

TEST(LoadScheduleTest, InfiniteBurstinessIsEvenAndInfiniteRateIsAtOnce) {
  for (const double gap : Gaps({.rate = 8, .burstiness = kInfinite, .end_rate = {}}, 100)) {
    EXPECT_NEAR(gap, 0.125, 1e-8);
  }
  for (const double gap : Gaps({.rate = kInfinite, .end_rate = {}}, 100)) EXPECT_EQ(gap, 0);
}

TEST(LoadScheduleTest, ASeedsArrivalsAreTheSame) {
  const Arrivals::Options options = {.rate = 3, .burstiness = 0.5, .end_rate = {}, .seed = 11};
  EXPECT_EQ(Gaps(options, 50), Gaps(options, 50));
  EXPECT_NE(Gaps(options, 50),
            Gaps({.rate = 3, .burstiness = 0.5, .end_rate = {}, .seed = 12}, 50));
}

// Evenly spaced arrivals on a ramp: the n-th comes when the integral of the rate is n.
TEST(LoadScheduleTest, RampsFollowTheirIntegral) {
  for (const bool exponential : {false, true}) {
    for (const auto& [from, to] : {std::pair(2.0, 20.0), std::pair(20.0, 2.0)}) {
      Arrivals arrivals({.rate = from,
                         .burstiness = kInfinite,
                         .end_rate = to,
                         .ramp = std::chrono::seconds(10),
                         .exponential = exponential});
      for (int i = 1; i <= 200; ++i) {
        const double at = Seconds(arrivals.Next());
        double integral = 0;  // by the midpoints of thin slices
        const int slices = 20000;
        for (int slice = 0; slice < slices; ++slice) {
          const double t = std::min(10.0, at * (slice + 0.5) / slices);
          const double rate =
              exponential ? from * std::pow(to / from, t / 10) : from + (to - from) * t / 10;
          integral += rate * at / slices;
        }
        ASSERT_NEAR(integral, i, 1e-3) << from << " to " << to << " " << exponential;
      }
    }
  }
}

TEST(LoadScheduleTest, LengthsHaveTheirDistribution) {
  const struct {
    const char* text;
    double mean, deviation;
  } kCases[] = {{"77", 77, 0},
                {"uniform:10:20", 15, 3.1623},
                {"normal:200:20", 200, 20},
                {"lognormal:100:0.5", 113.3, 60.4},
                {"exponential:300", 300, 300}};
  for (const auto& item : kCases) {
    const auto lengths = Lengths::Parse(item.text);
    ASSERT_TRUE(lengths.ok()) << lengths.status();
    load::Random random(5);
    std::vector<double> drawn;
    for (int i = 0; i < 50000; ++i) drawn.push_back(lengths->Draw(&random, 1 << 20));
    EXPECT_NEAR(Mean(drawn), item.mean, 0.02 * item.mean) << item.text;
    EXPECT_NEAR(std::sqrt(Variance(drawn)), item.deviation, 0.03 * item.deviation) << item.text;
    for (int i = 0; i < 1000; ++i) {
      const int32_t cut = lengths->Draw(&random, 16);
      ASSERT_GE(cut, 1);
      ASSERT_LE(cut, 16);
    }
  }
  for (const char* wrong : {"", "0", "-5", "x", "uniform:5", "uniform:9:5", "normal:5", "zipf:3",
                            "5:6", "exponential:0", "normal:1:2:3", "nan"}) {
    const auto refused = Lengths::Parse(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_THAT(std::string(refused.status().message()),
                ::testing::StartsWith("'" + std::string(wrong) + "'"));
  }
}

TEST(LoadScheduleTest, TheKneeIsFoundFromEitherSide) {
  for (const double capacity : {0.02, 0.9, 7.3, 812.0}) {
    load::KneeSearch search({.first = 5, .precision = 1.05});
    int tries = 0;
    while (const auto rate = search.Next()) {
      search.Report(*rate, *rate <= capacity);
      ASSERT_LT(++tries, 30);
    }
    ASSERT_TRUE(search.knee());
    EXPECT_LE(*search.knee(), capacity);
    EXPECT_GE(*search.knee(), capacity / 1.05);
  }
  load::KneeSearch nothing({.first = 1, .lowest = 0.1});
  while (const auto rate = nothing.Next()) nothing.Report(*rate, false);
  EXPECT_FALSE(nothing.knee());
}

}  // namespace
}  // namespace strata::testing::load_schedule_test
