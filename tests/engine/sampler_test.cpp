#include "tests/support/sampler.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "engine/decode/token_choice.h"
#include "gtest/gtest.h"

namespace strata::engine::sampler_test {
namespace {

using testing::Sampler;

int32_t Pick(Sampler* sampler, const std::vector<float>& logits, const SamplingParams& params,
             double uniform) {
  return sampler->Sample(logits, params, {.history = TokenHistory(), .uniform = uniform}).token;
}

// Every token that some uniform number picks.
std::set<int32_t> Kept(const std::vector<float>& logits, const SamplingParams& params) {
  constexpr int kSteps = 20000;
  Sampler sampler;
  std::set<int32_t> kept;
  for (int i = 0; i < kSteps; ++i) {
    kept.insert(Pick(&sampler, logits, params, (i + 0.5) / kSteps));
  }
  kept.insert(Pick(&sampler, logits, params, 0));
  kept.insert(Pick(&sampler, logits, params, std::nextafter(1.0, 0.0)));
  return kept;
}

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + 3));
  return logits;
}

// Ids out of order, so that nothing works by accident of sorting.
const std::vector<double> kProbabilities = {0.05, 0.4, 0.1, 0.3, 0.15};

// As Kept, after the sequence has generated `output`.
std::set<int32_t> KeptAfter(const std::vector<int32_t>& output, const SamplingParams& params) {
  Sampler sampler;
  std::set<int32_t> kept;
  constexpr std::array<int32_t, 1> eos = {1};
  for (int i = 0; i < 1000; ++i) {
    const SamplingState state = {.history = TokenHistory(),
                                 .eos_ids = eos,
                                 .output = output,
                                 .num_generated = static_cast<int32_t>(output.size()),
                                 .uniform = (i + 0.5) / 1000};
    kept.insert(sampler.Sample(LogitsOf(kProbabilities), params, state).token);
  }
  return kept;
}

TEST(SamplerTest, DrawsOnlyAllowedIds) {
  EXPECT_EQ(KeptAfter({}, {.allowed_ids = {4, 0, 2}}), (std::set<int32_t>{0, 2, 4}));
  EXPECT_EQ(KeptAfter({}, {.temperature = 0, .allowed_ids = {2, 0, 4, 4}}), std::set<int32_t>{4});
  EXPECT_EQ(KeptAfter({}, {.top_k = 2, .allowed_ids = {4, 0, 2}}), (std::set<int32_t>{2, 4}));
  // Penalties and biases come first.
  EXPECT_EQ(
      KeptAfter({}, {.temperature = 0, .logit_bias = {{0, 50}, {3, 90}}, .allowed_ids = {0, 2}}),
      std::set<int32_t>{0});
}

TEST(SamplerTest, BarsTheLastTokenOfABadWord) {
  const SamplingParams params = {.bad_words = {{3}, {2, 4}, {0, 0, 1}}};
  EXPECT_EQ(KeptAfter({}, params), (std::set<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(KeptAfter({4, 2}, params), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(KeptAfter({2, 0}, params), (std::set<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(KeptAfter({0}, params), (std::set<int32_t>{0, 1, 2, 4}));
  EXPECT_EQ(KeptAfter({2, 0, 0}, params), (std::set<int32_t>{0, 2, 4}));
}

TEST(SamplerTest, BarsGiveWayWhereNothingAllowedIsLeft) {
  EXPECT_EQ(KeptAfter({}, {.allowed_ids = {0, 3}, .bad_words = {{3}}}), std::set<int32_t>{0});
  EXPECT_EQ(KeptAfter({}, {.allowed_ids = {3}, .bad_words = {{3}}}), std::set<int32_t>{3});
  // Id 1 ends the output.
  EXPECT_EQ(KeptAfter({}, {.allowed_ids = {1, 3}, .min_tokens = 1}), std::set<int32_t>{3});
  EXPECT_EQ(KeptAfter({}, {.allowed_ids = {1, 3}, .bad_words = {{3}}, .min_tokens = 1}),
            (std::set<int32_t>{1, 3}));
}

TEST(SamplerTest, OfAllowedIdsOneIsDrawnThoughTheModelRulesThemOut) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Sampler sampler;
  for (const float temperature : {0.0F, 1.0F}) {
    EXPECT_EQ(
        Pick(&sampler, {1, nan, 2, nan}, {.temperature = temperature, .allowed_ids = {3}}, 0.5), 3);
  }
}

TEST(SamplerTest, TopPOfZeroIsGreedy) {
  EXPECT_EQ(Kept(LogitsOf(kProbabilities), {.top_p = 0}), std::set<int32_t>{1});
  Sampler sampler;
  EXPECT_EQ(Pick(&sampler, {1, 2, 2, 0}, {.top_p = 0}, 0.99), 1);  // of equals the lower id
}

// The vectors that Random123 publishes for philox4x32-10.
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformAtTest, DependsOnEveryArgumentAndStaysBelowOne) {
  // Beyond 32 bits: without its upper word each is one of the others.
  const uint64_t high = uint64_t{1} << 40;
  const std::set<double> values = {UniformAt(1, 0, 0),        UniformAt(2, 0, 0),
                                   UniformAt(1, 1, 0),        UniformAt(1, 0, 1),
                                   UniformAt(high + 1, 0, 0), UniformAt(1, 0, high)};
  EXPECT_EQ(values.size(), 6U);
  EXPECT_EQ(UniformAt(7, 3, 11), UniformAt(7, 3, 11));
  double sum = 0;
  for (uint64_t position = 0; position < 10000; ++position) {
    const double value = UniformAt(42, 0, position);
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  // The mean of 10^4 uniforms has a standard deviation of 0.0029; five of them.
  EXPECT_NEAR(sum / 10000, 0.5, 0.0145);
}

TEST(SamplerTest, GreedyTakesTheLowestOfEqualIds) {
  Sampler sampler;
  const SamplingParams greedy = {.temperature = 0};
  for (const double uniform : {0.0, 0.5, 0.999}) {
    EXPECT_EQ(Pick(&sampler, std::vector<float>{1, 3, 2, 3, 3}, greedy, uniform), 1);
  }
  EXPECT_EQ(Pick(&sampler, std::vector<float>{-5, -5}, greedy, 0.9), 0);
}

TEST(SamplerTest, NonFiniteLogitsAreImpossible) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  Sampler sampler;
  const std::vector<float> logits = {kNan, 1, kInfinity, 0.5F, -kInfinity};
  EXPECT_EQ(Pick(&sampler, logits, {.temperature = 0}, 0.5), 1);
  EXPECT_EQ(Kept(logits, {.stop_ids = {}}), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(Pick(&sampler, std::vector<float>{kNan, -kInfinity}, {.stop_ids = {}}, 0.5), 0);
}

TEST(SamplerTest, ALowTemperatureIsGreedy) {
  const std::vector<float> logits = {0.1F, 0.3F, 0.2F, 0.29F};
  for (const float temperature : {2e-4F, 1e-6F, 1e-30F}) {
    EXPECT_EQ(Kept(logits, {.temperature = temperature}), (std::set<int32_t>{1}));
  }
}

TEST(SamplerTest, TheMostLikelyStandsFirstAndEqualsGoById) {
  Sampler sampler;
  const SamplingParams params = {.stop_ids = {}};
  const std::vector<float> logits = LogitsOf(kProbabilities);
  // Cumulated in order of likelihood: id 1 to 0.4, 3 to 0.7, 4 to 0.85, 2 to 0.95, 0 to 1.
  EXPECT_EQ(Pick(&sampler, logits, params, 0.399), 1);
  EXPECT_EQ(Pick(&sampler, logits, params, 0.401), 3);
  EXPECT_EQ(Pick(&sampler, logits, params, 0.699), 3);
  EXPECT_EQ(Pick(&sampler, logits, params, 0.701), 4);
  EXPECT_EQ(Pick(&sampler, logits, params, 0.851), 2);
  EXPECT_EQ(Pick(&sampler, logits, params, 0.951), 0);
  const std::vector<float> equal = {2, 2, 2, 2};
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Pick(&sampler, equal, params, 0.25 * i + 0.1), i);
}

TEST(SamplerTest, TopKKeepsExactlyK) {
  const std::vector<float> logits = LogitsOf(kProbabilities);
  const std::vector<std::set<int32_t>> kept = {
      {0, 1, 2, 3, 4}, {1}, {1, 3}, {1, 3, 4}, {1, 2, 3, 4}, {0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}};
  for (size_t k = 0; k < kept.size(); ++k) {
    EXPECT_EQ(Kept(logits, {.top_k = static_cast<int32_t>(k)}), kept[k]) << k;
  }
  // Equals at the edge: the lower ids stay.
  EXPECT_EQ(Kept({1, 1, 1, 1}, {.top_k = 2}), (std::set<int32_t>{0, 1}));
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachP) {
  const std::vector<float> logits = LogitsOf(kProbabilities);
  const std::map<float, std::set<int32_t>> kept = {
      {1e-6F, {1}},       {0.39F, {1}},          {0.41F, {1, 3}},          {0.69F, {1, 3}},
      {0.71F, {1, 3, 4}}, {0.86F, {1, 2, 3, 4}}, {0.96F, {0, 1, 2, 3, 4}}, {1, {0, 1, 2, 3, 4}}};
  for (const auto& [p, ids] : kept) {
    EXPECT_EQ(Kept(logits, {.top_p = p}), ids) << p;
  }
  // At the border: tokens that reach p exactly are enough.
  EXPECT_EQ(Kept({2, 2, 2, 2}, {.top_p = 0.25F}), (std::set<int32_t>{0}));
  EXPECT_EQ(Kept({2, 2, 2, 2}, {.top_p = 0.5F}), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(Kept({2, 2, 2, 2}, {.top_p = 0.75F}), (std::set<int32_t>{0, 1, 2}));
}

TEST(SamplerTest, MinPIsAShareOfTheMostLikely) {
  const std::vector<float> logits = LogitsOf(kProbabilities);  // shares: 1/8, 1, 1/4, 3/4, 3/8
  const std::map<float, std::set<int32_t>> kept = {{0, {0, 1, 2, 3, 4}},
                                                   {0.12F, {0, 1, 2, 3, 4}},
                                                   {0.13F, {1, 2, 3, 4}},
                                                   {0.26F, {1, 3, 4}},
                                                   {0.38F, {1, 3}},
                                                   {0.76F, {1}},
                                                   {1, {1}}};
  for (const auto& [p, ids] : kept) {
    EXPECT_EQ(Kept(logits, {.min_p = p}), ids) << p;
  }
  EXPECT_EQ(Kept({2, 2, 1}, {.min_p = 1}), (std::set<int32_t>{0, 1}));  // at the border
}

TEST(SamplerTest, FiltersApplyInTheirOrder) {
  const std::vector<float> logits = LogitsOf(kProbabilities);
  // At temperature 1/2 probabilities are squared: the share of id 4 is 9/64, so min-p 0.2 drops it.
  EXPECT_EQ(Kept(logits, {.temperature = 0.5F, .min_p = 0.2F}), (std::set<int32_t>{1, 3}));
  // Top-p counts what top-k left: of {0.4, 0.3} the first has 4/7 > 0.5.
  EXPECT_EQ(Kept(logits, {.top_k = 2, .top_p = 0.5F}), (std::set<int32_t>{1}));
  EXPECT_EQ(Kept(logits, {.top_p = 0.5F}), (std::set<int32_t>{1, 3}));
}

// Pearson's statistic against the renormalised probabilities of the kept tokens.
TEST(SamplerTest, DrawsFollowTheDistribution) {
  constexpr int kDraws = 50000;
  struct Case {
    SamplingParams params;
    std::vector<double> expected;
  };
  std::vector<double> squared;
  double sum = 0;
  for (const double p : kProbabilities) sum += p * p;
  for (const double p : kProbabilities) squared.push_back(p * p / sum);
  const std::vector<Case> cases = {
      {{.stop_ids = {}}, kProbabilities},
      {{.temperature = 0.5F}, squared},
      {{.top_k = 2}, {0, 0.4 / 0.7, 0, 0.3 / 0.7, 0}},
      {{.top_p = 0.8F}, {0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85}},
  };
  for (size_t c = 0; c < cases.size(); ++c) {
    Sampler sampler;
    std::vector<int> counts(kProbabilities.size());
    for (uint64_t i = 0; i < kDraws; ++i) {
      const int32_t id =
          Pick(&sampler, LogitsOf(kProbabilities), cases[c].params, UniformAt(20240607, 0, i));
      ++counts[static_cast<size_t>(id)];
    }
    double statistic = 0;
    for (size_t id = 0; id < counts.size(); ++id) {
      const double expected = cases[c].expected[id] * kDraws;
      if (expected == 0) {
        EXPECT_EQ(counts[id], 0) << "case " << c << " id " << id;
      } else {
        statistic += (counts[id] - expected) * (counts[id] - expected) / expected;
      }
    }
    // Four degrees of freedom at most: above 23.5 with probability 1e-4; the seed is fixed.
    EXPECT_LT(statistic, 23.5) << "case " << c;
  }
}

// Earlier choices of a sampler do not matter: it may serve the batch in any order.
TEST(SamplerTest, KeepsNothingBetweenCalls) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 3);
  const std::vector<SamplingParams> params = {{.temperature = 0},
                                              {.temperature = 0.7F, .top_k = 3},
                                              {.top_p = 0.6F, .min_p = 0.05F},
                                              {.temperature = 2}};
  Sampler shared;
  for (int i = 0; i < 400; ++i) {
    std::vector<float> logits(20 + random() % 500);  // beyond the first that are sorted
    for (float& logit : logits) logit = normal(random);
    const SamplingParams& choice = params[random() % params.size()];
    const double uniform = UniformAt(9, 0, static_cast<uint64_t>(i));
    Sampler fresh;
    EXPECT_EQ(Pick(&shared, logits, choice, uniform), Pick(&fresh, logits, choice, uniform));
  }
}

}  // namespace
}  // namespace strata::engine::sampler_test
