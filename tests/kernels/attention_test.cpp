#include <functional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_testing.h"

namespace strata::kernels::attention_test {
namespace {

// One query against the stored keys and values, in double.
struct Exact {
  std::vector<double> output;
  double lse;
  double score_error;  // bound on what a f32 score may be off by
  double largest;      // value met
};

Exact ExactAttention(const Inputs& inputs, DType dtype, size_t request, int64_t position,
                     int64_t row, int64_t head) {
  const int32_t dim = inputs.head_dim;
  const float* q = inputs.Query(row, head);
  std::vector<double> scores;
  Exact exact{std::vector<double>(static_cast<size_t>(dim)), 0, 0, 0};
  for (int64_t p = 0; p <= position; ++p) {
    const float* k = inputs.Key(request, p, KvHead(head));
    double score = 0;
    double sizes = 0;
    for (int32_t d = 0; d < dim; ++d) {
      score += double{q[d]} * double{Stored(k[d], dtype)};
      sizes += std::abs(double{q[d]} * double{Stored(k[d], dtype)});
    }
    scores.push_back(score / std::sqrt(dim));
    // A chain of dim roundings, then the rounded 1/sqrt(dim), and the product with it.
    exact.score_error = std::max(exact.score_error, (dim + 3) * kUnit * sizes / std::sqrt(dim));
  }
  const double maximum = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - maximum);
  exact.lse = maximum + std::log(sum);
  for (int64_t p = 0; p <= position; ++p) {
    const float* v = inputs.Value(request, p, KvHead(head));
    const double weight = std::exp(scores[static_cast<size_t>(p)] - exact.lse);
    for (int32_t d = 0; d < dim; ++d) {
      const double value = Stored(v[d], dtype);
      exact.output[static_cast<size_t>(d)] += weight * value;
      exact.largest = std::max(exact.largest, std::abs(value));
    }
  }
  return exact;
}

// With e the error of a score, a probability is off by a factor within exp(+-2e) (its own score and
// the sum's), and by a few roundings: subtracting the maximum (scores here stay below 32, so at
// most 16 units each), exp (4 units), the sum's and the chain's up to 256 additions of a span, and
// the merges. Weights sum to 1, so the output is off by that factor times the largest value.
void ExpectClose(const Inputs& inputs, DType dtype, const Outputs& actual) {
  int64_t row = 0;
  for (size_t i = 0; i < Requests().size(); ++i) {
    const auto [context, rows] = Requests()[i];
    for (int64_t r = 0; r < rows; ++r, ++row) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const Exact exact = ExactAttention(inputs, dtype, i, context - rows + r, row, h);
        const double factor = 2 * exact.score_error + (2 * 16 + 2 * 4 + 2 * 256 + 20) * kUnit;
        const auto at = static_cast<size_t>(row * kHeads + h);
        ASSERT_NEAR(actual.lse[at], exact.lse, factor + std::abs(exact.lse) * kUnit);
        for (int32_t d = 0; d < inputs.head_dim; ++d) {
          ASSERT_NEAR(
              actual.output[at * static_cast<size_t>(inputs.head_dim) + static_cast<size_t>(d)],
              exact.output[static_cast<size_t>(d)], factor * exact.largest)
              << "request " << i << " row " << r << " head " << h << " dimension " << d;
        }
      }
    }
  }
}

using Param = std::tuple<DType, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class AttentionTest : public testing::TestWithParam<Param> {};

TEST_P(AttentionTest, MatchesOracleWithTheSameBitsHoweverItRuns) {
  const auto [dtype, head_dim, block_tokens] = GetParam();
  const Inputs inputs(head_dim);
  const std::unique_ptr<Backend> one = MakeCpu(1);
  const Cache cache(*one, inputs, dtype, block_tokens);
  const Outputs expected = Attend(*one, inputs, cache, 1000, true);
  ExpectClose(inputs, dtype, expected);
  const Outputs routed = Attend(*one, inputs, cache, 1000, true, &expected.lse);
  for (size_t i = 0; i < routed.output.size(); ++i) {  // the same but for rounding lse and weights
    ASSERT_NEAR(routed.output[i], expected.output[i], 6.0 * 800 * kUnit);
  }
  const std::unique_ptr<Backend> three = MakeCpu(3);
  const Cache other(*one, inputs, dtype, block_tokens == 16 ? 24 : 16);
  const auto expect_same = [&](Backend& backend, const Cache& from, int64_t chunk, bool one_call) {
    const Outputs own = Attend(backend, inputs, from, chunk, one_call);
    ExpectSameBits(expected.output, own.output, "output");
    ExpectSameBits(expected.lse, own.lse, "log-sum-exp");
    const Outputs reuse = Attend(backend, inputs, from, chunk, one_call, &expected.lse);
    ExpectSameBits(routed.output, reuse.output, "output of reused scores");
  };
  for (const int64_t target : AllTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    expect_same(*three, cache, 1000, true);
    if ((target & (HWY_SCALAR | HWY_EMU128)) != 0) continue;  // fuses in software: slow
    expect_same(*one, cache, 1000, true);
    expect_same(*three, cache, 7, false);
    expect_same(*three, other, 1, true);
  }
}

std::string ParamName(const testing::TestParamInfo<Param>& test) {
  const auto& [dtype, head_dim, block_tokens] = test.param;
  return absl::StrCat(std::string(DTypeName(dtype)), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, AttentionTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(8, 20, 64), testing::Values(1, 5, 16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(LargeHeads, AttentionTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(32, 80, 128), testing::Values(32, 512)),
                         ParamName);

TEST(AttentionTest, CountsEveryPlaneOnceForAllItsHeadsAndRows) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, DType::kBF16, 16);
  Attend(*backend, inputs, cache, 1000, true);
  int64_t positions = 0;
  for (const Request& request : Requests()) positions += request.context;
  EXPECT_EQ(backend->counters().cache_bytes_read, positions * kKvHeads * 2 * 64 * 2);
}

TEST(AttentionTest, NaNStaysWithTheRowThatHasIt) {
  Inputs inputs(20);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, DType::kF32, 16);
  const Outputs before = Attend(*backend, inputs, cache, 1000, true);
  constexpr int64_t kRow = 5;
  inputs.queries[static_cast<size_t>(kRow * kHeads * 20 + 3)] =
      std::numeric_limits<float>::quiet_NaN();  // of head 0
  Outputs after = Attend(*backend, inputs, cache, 1000, true);
  for (size_t d = 0; d < 20; ++d) {
    const size_t at = static_cast<size_t>(kRow * kHeads * 20) + d;
    EXPECT_TRUE(std::isnan(after.output[at]));
    after.output[at] = before.output[at];
  }
  EXPECT_TRUE(std::isnan(after.lse[kRow * kHeads]));
  after.lse[kRow * kHeads] = before.lse[kRow * kHeads];
  ExpectSameBits(before.output, after.output, "the other rows");
  ExpectSameBits(before.lse, after.lse, "the other rows' log-sum-exp");
}

TEST(AttentionTest, LaterInfinitiesDoNotReachEarlierRows) {
  const Inputs inputs(64);
  Inputs changed(64);
  // The last position of the chunk at [0, 37).
  for (int64_t i = 0; i < kKvHeads * 64; ++i) {
    changed.values[1][static_cast<size_t>(36 * kKvHeads * 64 + i)] = INFINITY;
    changed.keys[1][static_cast<size_t>(36 * kKvHeads * 64 + i)] = INFINITY;
  }
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  const Cache cache(*backend, inputs, DType::kF32, 16);
  const Cache changed_cache(*backend, changed, DType::kF32, 16);
  const auto earlier = [](const Outputs& all) {  // rows 0 (another request) to 36
    return std::vector<float>(all.output.begin(), all.output.begin() + 37 * kHeads * 64);
  };
  ExpectSameBits(earlier(Attend(*backend, inputs, cache, 1000, true)),
                 earlier(Attend(*backend, changed, changed_cache, 1000, true)), "earlier rows");
}

}  // namespace
}  // namespace strata::kernels::attention_test
