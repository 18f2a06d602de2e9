#include <functional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_oracle.h"
#include "tests/kernels/attention_testing.h"

namespace strata::kernels::attention_test {
namespace {

using Param = std::tuple<CacheFormats, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class AttentionTest : public testing::TestWithParam<Param> {};

TEST_P(AttentionTest, MatchesOracleWithTheSameBitsHoweverItRuns) {
  const auto [dtypes, head_dim, block_tokens] = GetParam();
  const Inputs inputs(head_dim);
  const std::unique_ptr<Backend> one = MakeCpu(1);
  const Cache cache(*one, inputs, dtypes, block_tokens);
  const Outputs expected = Attend(*one, inputs, cache, 1000, true);
  ExpectClose(inputs, dtypes, expected);
  const Outputs routed = Attend(*one, inputs, cache, 1000, true, &expected.lse);
  for (size_t i = 0; i < routed.output.size(); ++i) {  // the same but for rounding lse and weights
    ASSERT_NEAR(routed.output[i], expected.output[i], 6.0 * 800 * kUnit);
  }
  const std::unique_ptr<Backend> three = MakeCpu(3);
  const Cache other(*one, inputs, dtypes, block_tokens == 16 ? 24 : 16);
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
  const auto& [dtypes, head_dim, block_tokens] = test.param;
  return absl::StrCat(NameOf(dtypes), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, AttentionTest,
                         testing::Combine(kCaches, testing::Values(8, 20, 64),
                                          testing::Values(1, 5, 16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(LargeHeads, AttentionTest,
                         testing::Combine(kCaches, testing::Values(32, 80, 128),
                                          testing::Values(32)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(LongBlocks, AttentionTest,
                         testing::Combine(kCaches, testing::Values(80), testing::Values(64, 512)),
                         ParamName);

TEST(AttentionTest, CountsEveryPlaneOnceForAllItsHeadsAndRows) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  int64_t positions = 0;
  for (const Request& request : Requests()) positions += request.context;
  int64_t read = 0;
  for (const auto& [dtypes, pair] : {std::pair{kBF16Cache, 2 * 64 * 2},
                                     {kInt8Cache, 2 * (64 + 4)},
                                     {kInt8Keys, 64 + 4 + 64 * 2}}) {
    const Cache cache(*backend, inputs, dtypes, 16);
    Attend(*backend, inputs, cache, 1000, true);
    read += positions * kKvHeads * pair;
    EXPECT_EQ(backend->counters().cache_bytes_read, read) << NameOf(dtypes);
  }
}

TEST(AttentionTest, NaNStaysWithTheRowThatHasIt) {
  Inputs inputs(20);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, kF32Cache, 16);
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

// One element of the key or the value at position 20 of the chunk at [0, 37).
TEST(AttentionTest, OnlyRowsThatSeeItMeetWhatIsNotFinite) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(1);
  for (const CacheFormats dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    const Cache cache(*backend, inputs, dtypes, 16);
    const Outputs before = Attend(*backend, inputs, cache, 1000, true);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY}) {
      for (const auto planes : {&Inputs::keys, &Inputs::values}) {
        SCOPED_TRACE(NameOf(dtypes));
        Inputs changed(64);
        (changed.*planes)[1][20 * kKvHeads * 64 + 3] = bad;  // of kv head 0
        const Cache changed_cache(*backend, changed, dtypes, 16);
        const Outputs after = Attend(*backend, changed, changed_cache, 1000, true);
        const auto earlier = [](const Outputs& all) {  // row 0 is another request's
          return std::vector<float>(all.output.begin(), all.output.begin() + 21 * kHeads * 64);
        };
        ExpectSameBits(earlier(before), earlier(after), "rows that do not see it");
        for (size_t row = 21; row < 38; ++row) {
          const float met = after.output[row * kHeads * 64 + 3];
          const bool seen = planes == &Inputs::values || std::isnan(bad);
          EXPECT_FALSE(seen && std::isfinite(met)) << "row " << row;
        }
      }
    }
  }
}

}  // namespace
}  // namespace strata::kernels::attention_test
