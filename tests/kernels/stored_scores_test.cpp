// Scores that a decode step keeps for later layers, and probabilities handed out.

#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/kernels/attention_testing.h"

namespace strata::kernels::stored_scores_test {
namespace {

constexpr int32_t kSlots = kHeads + 2;  // two of them nobody writes
constexpr int32_t SlotOf(int64_t head) { return static_cast<int32_t>((2 * head + 3) % kSlots); }

// Score blocks in a random order, NaN until written.
class ScoreBlocks {
 public:
  explicit ScoreBlocks(const PagedArena& planes) : arena_(planes) {
    int64_t longest = 0;
    for (const Request& request : Requests()) longest = std::max(longest, request.context);
    const int64_t blocks = longest / arena_.block_tokens + 1;
    for (int32_t i = 0; i < 2 * blocks; ++i) table_.push_back(i);
    Random(9).Shuffle(table_);
    scores_.resize(static_cast<size_t>(2 * blocks * kSlots * arena_.block_tokens));
    Poison();
    arena_.scores = scores_.data();
    arena_.score_slots = kSlots;
  }
  void Poison() { std::fill(scores_.begin(), scores_.end(), std::nanf("")); }
  const PagedArena& arena() const { return arena_; }
  const int32_t* table() const { return table_.data(); }

  // Slots and positions that are no head's in a context so long.
  void ExpectRestIntact(int64_t context) const {
    std::vector<bool> used(scores_.size());
    for (int64_t p = 0; p < context; ++p) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const int64_t block = table_[static_cast<size_t>(p / arena_.block_tokens)];
        used[static_cast<size_t>((block * kSlots + SlotOf(h)) * arena_.block_tokens +
                                 p % arena_.block_tokens)] = true;
      }
    }
    for (size_t i = 0; i < scores_.size(); ++i) {
      ASSERT_EQ(std::isnan(scores_[i]), !used[i]) << "score " << i;
    }
  }

 private:
  PagedArena arena_;
  std::vector<int32_t> table_;
  std::vector<float> scores_;
};

std::vector<HeadAttention> Heads(const Inputs& inputs, const Cache& cache, GuardedRows& out,
                                 GuardedRows& lse) {
  const int32_t dim = inputs.head_dim;
  std::vector<HeadAttention> heads;
  for (int64_t h = 0; h < kHeads; ++h) {
    heads.push_back({.query = inputs.Query(0, h),
                     .query_stride = kHeads * dim,
                     .key_offset = cache.KeyOffset(KvHead(h)),
                     .value_offset = cache.ValueOffset(KvHead(h)),
                     .lse = &lse.at(0, h),
                     .lse_stride = lse.stride(),
                     .score_slot = SlotOf(h),
                     .output = &out.at(0, h * dim),
                     .output_stride = out.stride()});
  }
  return heads;
}

// Each row alone: a layer that keeps its scores, then one that finds them.
std::pair<Outputs, Outputs> KeepAndFind(Backend& backend, const Inputs& inputs,
                                        const Cache& cache) {
  ScoreBlocks scores(cache.arena());
  GuardedRows kept(inputs.total_rows, kHeads * inputs.head_dim);
  GuardedRows found(inputs.total_rows, kHeads * inputs.head_dim);
  GuardedRows lse(inputs.total_rows, kHeads);
  const std::vector<HeadAttention> owners = Heads(inputs, cache, kept, lse);
  std::vector<HeadAttention> finders = Heads(inputs, cache, found, lse);
  for (HeadAttention& head : finders) {
    head.reused_lse = std::exchange(head.lse, nullptr);
    head.key_offset = head.value_offset;  // whoever reads these as keys gives himself away
  }
  for (SequenceRows row : Cut(cache, 1)) {
    row.score_table = scores.table();
    scores.Poison();
    backend.Attention(scores.arena(), {&row, 1}, owners);
    scores.ExpectRestIntact(row.first_position + 1);
    backend.Attention(scores.arena(), {&row, 1}, finders);
  }
  kept.ExpectMarksIntact();
  found.ExpectMarksIntact();
  lse.ExpectMarksIntact();
  return {{kept.Values(), lse.Values()}, {found.Values(), {}}};
}

using Param = std::tuple<CacheDTypes, int32_t /*head_dim*/, int32_t /*block_tokens*/>;
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

std::string ParamName(const testing::TestParamInfo<Param>& test) {
  const auto& [dtypes, head_dim, block_tokens] = test.param;
  return absl::StrCat(NameOf(dtypes), "_dim", head_dim, "_block", block_tokens);
}

INSTANTIATE_TEST_SUITE_P(Layouts, StoredScoresTest,
                         testing::Combine(kCaches, testing::Values(20, 64),
                                          testing::Values(5, 16, 512)),
                         ParamName);

// A finding layer reads values and scores, a keeping one writes what it found in keys.
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
  ScoreBlocks scores(cache.arena());
  GuardedRows out(inputs.total_rows, kHeads * 64);
  GuardedRows found(inputs.total_rows, kHeads * 64);
  GuardedRows lse(inputs.total_rows, kHeads);
  const std::vector<HeadAttention> owners = Heads(inputs, cache, out, lse);
  std::vector<HeadAttention> finders = Heads(inputs, cache, found, lse);
  for (HeadAttention& head : finders) head.reused_lse = std::exchange(head.lse, nullptr);
  std::vector<SequenceRows> sequences = Cut(cache, 1000);
  for (SequenceRows& sequence : sequences) {
    if (sequence.num_rows == 1 && sequence.first_position > 300) {
      sequence.score_table = scores.table();
    }
  }
  backend->Attention(scores.arena(), sequences, owners);
  backend->Attention(scores.arena(), sequences, finders);
  ExpectSameBits(own.output, out.Values(), "output");
  ExpectSameBits(routed.output, found.Values(), "output of reused scores");
}

// Their sum is 1, and over values that are one-hot they are the output.
TEST(StoredScoresTest, ProbabilitiesHandedOutAreThoseThatWereApplied) {
  for (const CacheDTypes dtypes : {kF32Cache, kBF16Cache, kInt8Cache}) {
    const Inputs inputs(20);
    const std::unique_ptr<Backend> backend = MakeCpu(1);
    const Cache cache(*backend, inputs, dtypes, 16);
    GuardedRows out(inputs.total_rows, kHeads * 20);
    GuardedRows lse(inputs.total_rows, kHeads);
    const std::vector<HeadAttention> heads = Heads(inputs, cache, out, lse);
    size_t request = 0;
    for (const SequenceRows& sequence : Cut(cache, 1000)) {
      backend->Attention(cache.arena(), {&sequence, 1}, heads);
      for (int64_t h = 0; h < kHeads; ++h) {
        std::vector<float> probabilities(static_cast<size_t>(sequence.first_position) + 2, -1.0f);
        backend->AttentionProbabilities(cache.arena(), sequence, heads[static_cast<size_t>(h)],
                                        probabilities.data());
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
          EXPECT_NEAR(out.at(sequence.first_row, h * 20 + d), output[static_cast<size_t>(d)],
                      6.0 * 800 * kUnit);
        }
      }
      ++request;
    }
  }
}

}  // namespace
}  // namespace strata::kernels::stored_scores_test
