#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/kernels/attention_testing.h"

// Scores that a decode step keeps for later layers, in score blocks of a test.
namespace strata::kernels {

inline constexpr int32_t kSlots = kHeads + 2;  // two of them are never written
constexpr int32_t SlotOf(int64_t head) { return static_cast<int32_t>((2 * head + 3) % kSlots); }

// Score blocks in a random order, NaN until written.
class ScoreBlocks {
 public:
  ScoreBlocks(Backend& backend, const PagedArena& planes) : backend_(backend), arena_(planes) {
    int64_t longest = 0;
    for (const Request& request : Requests()) longest = std::max(longest, request.context);
    const int64_t blocks = longest / arena_.block_tokens + 1;
    for (int32_t i = 0; i < 2 * blocks; ++i) table_.push_back(i);
    Random(9).Shuffle(table_);
    count_ = static_cast<size_t>(2 * blocks * kSlots * arena_.block_tokens);
    memory_ = Upload(backend, std::vector<float>(count_));
    Poison();
    arena_.scores = memory_->floats();
    arena_.score_slots = kSlots;
  }
  void Poison() {
    const std::vector<float> poison(count_, std::nanf(""));
    backend_.CopyFromHost(memory_->data(), std::as_bytes(std::span(poison)));
  }
  const PagedArena& arena() const { return arena_; }
  const int32_t* table() const { return table_.data(); }

  // Checks slots of no head, and positions beyond `context`. `without`: a head without a slot.
  void ExpectRestIntact(int64_t context, int64_t without) const {
    const std::vector<float> scores = Download<float>(backend_, *memory_);
    std::vector<bool> used(scores.size());
    for (int64_t p = 0; p < context; ++p) {
      for (int64_t h = 0; h < kHeads; ++h) {
        if (h == without) continue;
        const int64_t block = table_[static_cast<size_t>(p / arena_.block_tokens)];
        used[static_cast<size_t>((block * kSlots + SlotOf(h)) * arena_.block_tokens +
                                 p % arena_.block_tokens)] = true;
      }
    }
    for (size_t i = 0; i < scores.size(); ++i) {
      ASSERT_EQ(std::isnan(scores[i]), !used[i]) << "score " << i;
    }
  }

 private:
  Backend& backend_;
  PagedArena arena_;
  std::vector<int32_t> table_;
  size_t count_ = 0;
  std::unique_ptr<Buffer> memory_;
};

inline std::vector<HeadAttention> Heads(const Inputs& inputs, const Buffer& queries,
                                        BackendRows& out, BackendRows& lse) {
  const int32_t dim = inputs.head_dim;
  std::vector<HeadAttention> heads;
  for (int64_t h = 0; h < kHeads; ++h) {
    heads.push_back({.query = queries.floats() + h * dim,
                     .query_stride = kHeads * dim,
                     .lse = lse.At(0, h),
                     .lse_stride = lse.stride(),
                     .score_slot = SlotOf(h),
                     .output = out.At(0, h * dim),
                     .output_stride = out.stride()});
  }
  return heads;
}

// Each row alone: a layer that stores its scores, then a layer that reads them. `without`: a head
// that stores no scores and that the second layer does not have; its output there is 0.
inline std::pair<Outputs, Outputs> KeepAndFind(Backend& backend, const Inputs& inputs,
                                               const Cache& cache, int64_t without = -1) {
  ScoreBlocks scores(backend, cache.arena());
  const std::unique_ptr<Buffer> queries = Upload(backend, inputs.queries);
  const GuardedRows outputs(inputs.total_rows, kHeads * inputs.head_dim);
  BackendRows kept(backend, outputs);
  BackendRows found(backend, outputs);
  BackendRows lse(backend, GuardedRows(inputs.total_rows, kHeads));
  std::vector<HeadAttention> owners = Heads(inputs, *queries, kept, lse);
  std::vector<HeadAttention> finders = Heads(inputs, *queries, found, lse);
  for (HeadAttention& head : finders) head.reused_lse = std::exchange(head.lse, nullptr);
  if (without >= 0) owners[static_cast<size_t>(without)].score_slot = -1;
  const std::vector<PlaneGroup> keep = cache.Groups(owners, inputs.head_dim);
  std::vector<PlaneGroup> find = cache.Groups(finders, inputs.head_dim, without);
  for (PlaneGroup& group : find) group.keys = group.values;  // read as keys, they would show
  for (SequenceRows row : Cut(cache, 1)) {
    row.score_table = scores.table();
    scores.Poison();
    backend.Attention(scores.arena(), {&row, 1}, keep);
    scores.ExpectRestIntact(row.first_position + 1, without);
    backend.Attention(scores.arena(), {&row, 1}, find);
  }
  return {{kept.Fetch().Values(), lse.Fetch().Values()}, {found.Fetch().Values(), {}}};
}

// Among heads that read one pair of planes some keep their scores and one does not: the first of
// them or the last.
inline void ExpectHeadsKeepOrDoNot(Backend& backend, const Inputs& inputs, const Cache& cache) {
  const Outputs own = Attend(backend, inputs, cache, 1000, true);
  const Outputs routed = Attend(backend, inputs, cache, 1000, true, &own.lse);
  for (const int64_t without : {0, 2}) {
    SCOPED_TRACE(without);
    const auto [kept, found] = KeepAndFind(backend, inputs, cache, without);
    ExpectSameBits(own.output, kept.output, "output of the layer that keeps its scores");
    ExpectSameBits(own.lse, kept.lse, "its log-sum-exp");
    std::vector<float> expected = routed.output;
    for (int64_t row = 0; row < inputs.total_rows; ++row) {
      const int64_t begin = (row * kHeads + without) * inputs.head_dim;
      std::fill_n(expected.begin() + begin, inputs.head_dim, 0.0f);
    }
    ExpectSameBits(expected, found.output, "output of the layer that finds them");
  }
}

}  // namespace strata::kernels
