// Attention of the CUDA backend against the oracle, and its promise that no bit depends on how the
// work is cut.

#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_oracle.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/kernels/score_blocks.h"

namespace strata::kernels::cuda_attention_test {
namespace {

using Param = std::tuple<CacheFormats, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class CudaAttentionTest : public CudaTest, public ::testing::WithParamInterface<Param> {
 protected:
  CacheFormats dtypes() const { return std::get<0>(GetParam()); }
  int32_t head_dim() const { return std::get<1>(GetParam()); }
  int32_t block_tokens() const { return std::get<2>(GetParam()); }
  // Whether the tensor cores compute it: queries and weights are then rounded to 16 bits.
  bool rounds() const {
    const bool size = head_dim() == 32 || head_dim() == 64 || head_dim() == 128;
    return dtypes().keys == dtypes().values && dtypes().keys != PlaneFormat::kF32 && size &&
           (!HasScale(dtypes().keys) || block_tokens() % 4 == 0);
  }
  // The manual does not say how matrix instructions round their sums: they truncate instead of
  // rounding, some bits further down.
  Rounding rounding() const {
    return rounds() ? Rounding{.sums = 4, .weights = 0x1p-8} : Rounding{};
  }
  Inputs RoundedInputs(const Inputs& inputs) const {
    Inputs rounded = inputs;
    if (rounds()) {
      const PlaneFormat dtype = HasScale(dtypes().keys) ? PlaneFormat::kBF16 : dtypes().keys;
      for (float& query : rounded.queries) query = Stored(query, dtype);
    }
    return rounded;
  }
};

TEST_P(CudaAttentionTest, MatchesOracleHoweverItIsCut) {
  const Inputs inputs(head_dim());
  const std::unique_ptr<Backend> backend = MakeCuda();
  const Cache cache(*backend, inputs, dtypes(), block_tokens());
  const Outputs expected = Attend(*backend, inputs, cache, 1000, true);
  ExpectClose(RoundedInputs(inputs), dtypes(), expected, rounding());
  const Outputs routed = Attend(*backend, inputs, cache, 1000, true, &expected.lse);
  // The same but for rounding of the log-sum-exp and the weights.
  const double bound = rounds() ? 6.0 * 0x1p-8 : 6.0 * 800 * kUnit;
  for (size_t i = 0; i < routed.output.size(); ++i) {
    ASSERT_NEAR(routed.output[i], expected.output[i], bound);
  }
  const auto expect_same = [&](int64_t chunk, bool one_call) {
    const Outputs own = Attend(*backend, inputs, cache, chunk, one_call);
    ExpectSameBits(expected.output, own.output, "output");
    ExpectSameBits(expected.lse, own.lse, "log-sum-exp");
    const Outputs reuse = Attend(*backend, inputs, cache, chunk, one_call, &expected.lse);
    ExpectSameBits(routed.output, reuse.output, "output of reused scores");
  };
  expect_same(1, true);
  expect_same(7, false);
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST_P(CudaAttentionTest, KeptScoresGiveTheBitsOfScoresComputedAgain) {
  const Inputs inputs(head_dim());
  const std::unique_ptr<Backend> backend = MakeCuda();
  const Cache cache(*backend, inputs, dtypes(), block_tokens());
  const Outputs own = Attend(*backend, inputs, cache, 1000, true);
  const Outputs routed = Attend(*backend, inputs, cache, 1000, true, &own.lse);
  const auto [kept, found] = KeepAndFind(*backend, inputs, cache);
  ExpectSameBits(own.output, kept.output, "output of the layer that keeps its scores");
  ExpectSameBits(own.lse, kept.lse, "its log-sum-exp");
  ExpectSameBits(routed.output, found.output, "output of the layer that finds them");
}

TEST_P(CudaAttentionTest, HeadsOfAGroupKeepTheirScoresOrDoNot) {
  const Inputs inputs(head_dim());
  const std::unique_ptr<Backend> backend = MakeCuda();
  ExpectHeadsKeepOrDoNot(*backend, inputs, Cache(*backend, inputs, dtypes(), block_tokens()));
}

std::string ParamName(const ::testing::TestParamInfo<Param>& test) {
  const auto& [dtypes, head_dim, block_tokens] = test.param;
  return absl::StrCat(NameOf(dtypes), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(General, CudaAttentionTest,
                         ::testing::Combine(::testing::Values(kF32Cache, kInt8Cache, kInt8Keys),
                                            ::testing::Values(20), ::testing::Values(5, 16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(TensorCores, CudaAttentionTest,
                         ::testing::Combine(::testing::Values(kBF16Cache, kInt8Cache),
                                            ::testing::Values(32, 64, 128), ::testing::Values(16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(MoreDTypes, CudaAttentionTest,
                         ::testing::Combine(::testing::Values(kF16Cache, kFp8Cache),
                                            ::testing::Values(20, 64), ::testing::Values(16)),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(Blocks, CudaAttentionTest,
                         ::testing::Combine(::testing::Values(kBF16Cache), ::testing::Values(32),
                                            ::testing::Values(1, 5, 512)),
                         ParamName);

using CudaAttentionOrderTest = CudaTest;
TEST_F(CudaAttentionOrderTest, NoBitDependsOnTheOrderOfThreads) {
  for (const CacheFormats dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    const Inputs inputs(32);
    const std::unique_ptr<Backend> backend = MakeCuda();
    const Cache cache(*backend, inputs, dtypes, 16);
    Outputs expected;
    InEveryOrder([&] {
      for (const int64_t chunk : {1000, 1}) {
        const Outputs own = Attend(*backend, inputs, cache, chunk, true);
        if (expected.output.empty()) expected = own;
        ExpectSameBits(expected.output, own.output, "output");
        ExpectSameBits(expected.lse, own.lse, "log-sum-exp");
      }
    });
  }
}

TEST_F(CudaAttentionOrderTest, CountsWhatTheCpuCounts) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> cpu = MakeCpu(1);
  const std::unique_ptr<Backend> cuda = MakeCuda();
  for (Backend* backend : {cpu.get(), cuda.get()}) {
    const Cache cache(*backend, inputs, kInt8Cache, 16);
    KeepAndFind(*backend, inputs, cache);
  }
  EXPECT_EQ(cpu->counters().cache_bytes_read, cuda->counters().cache_bytes_read);
  EXPECT_EQ(cpu->counters().cache_bytes_written, cuda->counters().cache_bytes_written);
  EXPECT_EQ(cpu->counters().score_bytes_read, cuda->counters().score_bytes_read);
  EXPECT_EQ(cpu->counters().score_bytes_written, cuda->counters().score_bytes_written);
}

}  // namespace
}  // namespace strata::kernels::cuda_attention_test
