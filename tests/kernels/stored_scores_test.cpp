// Scores that a decode step keeps for later layers, and probabilities handed out.

#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/score_blocks.h"

namespace strata::kernels::stored_scores_test {
namespace {

using Param = std::tuple<CacheFormats, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
class StoredScoresTest : public testing::TestWithParam<Param> {};

TEST_P(StoredScoresTest, GiveTheBitsOfScoresComputedAgain) {
  const auto [dtypes, head_dim, block_tokens] = GetParam();
  const Inputs inputs(head_dim);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, dtypes, block_tokens);
  const Outputs own = Attend(*backend, inputs, cache, 1000, true);
  const Outputs routed = Attend(*backend, inputs, cache, 1000, true, &own.lse);
  for (const int64_t target : AllTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const ScopedTarget scoped(target);
    if ((target & (HWY_SCALAR | HWY_EMU128)) != 0) continue;  // fuses in software: slow
    const auto [kept, found] = KeepAndFind(*backend, inputs, cache);
    ExpectSameBits(own.output, kept.output, "output of the layer that keeps its scores");
    ExpectSameBits(own.lse, kept.lse, "its log-sum-exp");
    ExpectSameBits(routed.output, found.output, "output of the layer that finds them");
  }
}

TEST_P(StoredScoresTest, HeadsOfAGroupKeepTheirsOrDoNot) {
  const auto [dtypes, head_dim, block_tokens] = GetParam();
  const Inputs inputs(head_dim);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  ExpectHeadsKeepOrDoNot(*backend, inputs, Cache(*backend, inputs, dtypes, block_tokens));
}

std::string ParamName(const testing::TestParamInfo<Param>& test) {
  const auto& [dtypes, head_dim, block_tokens] = test.param;
  return absl::StrCat(NameOf(dtypes), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, StoredScoresTest,
                         testing::Combine(kCaches, testing::Values(20, 64),
                                          testing::Values(5, 16, 512)),
                         ParamName);

// A reading layer reads values and scores; a storing layer writes the scores that it computed.
TEST(StoredScoresTest, CountsWhatIsReadAndWritten) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, kBF16Cache, 16);
  KeepAndFind(*backend, inputs, cache);
  int64_t positions = 0;
  for (const SequenceRows& row : Cut(cache, 1)) positions += row.first_position + 1;
  const BackendCounters counters = backend->counters();
  EXPECT_EQ(counters.cache_bytes_read, positions * kKvHeads * 3 * 64 * 2);
  EXPECT_EQ(counters.score_bytes_written, positions * kHeads * 4);
  EXPECT_EQ(counters.score_bytes_read, positions * kHeads * 4);
}

TEST(StoredScoresTest, OneBatchMixesRowsThatKeepScoresWithChunksThatDoNot) {
  const Inputs inputs(64);
  const std::unique_ptr<Backend> backend = MakeCpu(2);
  const Cache cache(*backend, inputs, kF32Cache, 16);
  const Outputs own = Attend(*backend, inputs, cache, 1000, true);
  const Outputs routed = Attend(*backend, inputs, cache, 1000, true, &own.lse);
  ScoreBlocks scores(*backend, cache.arena());
  const std::unique_ptr<Buffer> queries = Upload(*backend, inputs.queries);
  BackendRows out(*backend, GuardedRows(inputs.total_rows, kHeads * 64));
  BackendRows found(*backend, GuardedRows(inputs.total_rows, kHeads * 64));
  BackendRows lse(*backend, GuardedRows(inputs.total_rows, kHeads));
  const std::vector<HeadAttention> owners = Heads(inputs, *queries, out, lse);
  std::vector<HeadAttention> finders = Heads(inputs, *queries, found, lse);
  for (HeadAttention& head : finders) head.reused_lse = std::exchange(head.lse, nullptr);
  std::vector<SequenceRows> sequences = Cut(cache, 1000);
  for (SequenceRows& sequence : sequences) {
    if (sequence.num_rows == 1 && sequence.first_position > 300) {
      sequence.score_table = scores.table();
    }
  }
  backend->Attention(scores.arena(), sequences, cache.Groups(owners, 64));
  backend->Attention(scores.arena(), sequences, cache.Groups(finders, 64));
  ExpectSameBits(own.output, out.Fetch().Values(), "output");
  ExpectSameBits(routed.output, found.Fetch().Values(), "output of reused scores");
}

// The probabilities sum to 1, and over one-hot values they are the output.
TEST(StoredScoresTest, ProbabilitiesHandedOutAreThoseThatWereApplied) {
  for (const CacheFormats dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    const Inputs inputs(20);
    const std::unique_ptr<Backend> backend = MakeCpu(1);
    const Cache cache(*backend, inputs, dtypes, 16);
    const std::unique_ptr<Buffer> queries = Upload(*backend, inputs.queries);
    BackendRows out(*backend, GuardedRows(inputs.total_rows, kHeads * 20));
    BackendRows lse(*backend, GuardedRows(inputs.total_rows, kHeads));
    const std::vector<PlaneGroup> groups = cache.Groups(Heads(inputs, *queries, out, lse), 20);
    size_t request = 0;
    for (const SequenceRows& sequence : Cut(cache, 1000)) {
      backend->Attention(cache.arena(), {&sequence, 1}, groups);
      for (int64_t h = 0; h < kHeads; ++h) {
        const PlaneGroup& group = groups[static_cast<size_t>(KvHead(h))];
        const HeadAttention& head = group.heads[static_cast<size_t>(h - 3 * KvHead(h))];
        std::vector<float> probabilities(static_cast<size_t>(sequence.first_position) + 2, -1.0f);
        backend->AttentionProbabilities(cache.arena(), sequence, group, head, probabilities.data());
        EXPECT_EQ(probabilities.back(), -1.0f) << "one more than the row sees";
        probabilities.pop_back();
        std::vector<double> output(20);
        double sum = 0;
        for (size_t p = 0; p < probabilities.size(); ++p) {
          sum += probabilities[p];
          const std::vector<double> value = StoredRow(
              inputs.Value(request, static_cast<int64_t>(p), KvHead(h)), 20, dtypes.values);
          for (size_t d = 0; d < 20; ++d) output[d] += probabilities[p] * value[d];
        }
        // As for routed scores in attention_test: roundings of a few hundred steps, values below 6.
        EXPECT_NEAR(sum, 1, 800 * kUnit);
        for (int64_t d = 0; d < 20; ++d) {
          EXPECT_NEAR(out.Fetch().at(sequence.first_row, h * 20 + d),
                      output[static_cast<size_t>(d)], 6.0 * 800 * kUnit);
        }
      }
      ++request;
    }
  }
}

}  // namespace
}  // namespace strata::kernels::stored_scores_test
