#include <algorithm>

#include "kernels/cpu/attention.h"

namespace strata::kernels {
namespace {

constexpr int64_t kUnitsPerThread = 3;  // with fewer, units are cut into spans
constexpr int64_t kSmallWork = 4096;    // query x position pairs not worth a second thread
constexpr size_t kMaxSpanStates = size_t{16} << 20;  // floats of states that wait for the merge

}  // namespace

void AttentionRunner::Run(const PagedArena& cache, std::span<const SequenceRows> sequences,
                          std::span<const HeadAttention> heads, ThreadPool& pool,
                          BackendCounters* counters) {
  if (heads.empty()) return;
  GroupHeads(heads);
  CutUnits(cache, sequences);
  Count(cache, sequences, counters);
  const size_t state_floats =
      AttentionStateFloats(cache.head_dim) * static_cast<size_t>(max_queries_);
  if (WorthCuttingToSpans(state_floats, pool)) {
    RunSpans(cache.head_dim, state_floats, pool);
  } else {
    RunWholeUnits(cache.head_dim, pool);
  }
}

size_t AttentionRunner::MostScratchBytes(const StepLimits& limits, int num_threads) {
  const auto threads = static_cast<size_t>(num_threads);
  const size_t state_floats = AttentionStateFloats(limits.head_dim) * AttentionUnit::kMaxQueries;
  size_t states = 2 * state_floats * threads;
  if (threads > 1) {
    const size_t spans = (static_cast<size_t>(limits.context) + Backend::kAttentionSpan - 1) /
                         Backend::kAttentionSpan;
    const size_t units = kUnitsPerThread * threads - 1;
    states = std::max(states, std::min(units * (spans + 1) * state_floats, kMaxSpanStates));
  }
  return (AttentionScratch::Floats(limits.head_dim) * threads + states) * sizeof(float);
}

void AttentionRunner::Count(const PagedArena& cache, std::span<const SequenceRows> sequences,
                            BackendCounters* counters) const {
  const auto key_bytes = static_cast<int64_t>(cache.TokenBytes(PlaneKind::kKey));
  const auto value_bytes = static_cast<int64_t>(cache.TokenBytes(PlaneKind::kValue));
  for (const SequenceRows& sequence : sequences) {
    if (sequence.num_rows == 0) continue;
    const int64_t positions = sequence.first_position + sequence.num_rows;
    int64_t group_begin = 0;
    for (const int64_t group_end : group_ends_) {
      const AttentionUnit unit = {.sequence = &sequence, .heads = heads_.data() + group_begin};
      counters->cache_bytes_read +=
          positions * (value_bytes + (unit.finds_scores() ? 0 : key_bytes));
      for (int64_t i = group_begin; i < group_end; ++i) {
        const HeadAttention& head = *heads_[static_cast<size_t>(i)];
        if (sequence.score_table == nullptr || head.score_slot < 0) continue;
        int64_t& bytes =
            unit.finds_scores() ? counters->score_bytes_read : counters->score_bytes_written;
        bytes += positions * static_cast<int64_t>(sizeof(float));
      }
      group_begin = group_end;
    }
  }
}

void AttentionRunner::Probabilities(const PagedArena& cache, const SequenceRows& sequence,
                                    const HeadAttention& head, float* out) {
  HeadAttention reuser = head;
  reuser.reused_lse = head.lse;
  const HeadAttention* const heads[] = {&reuser};
  SequenceRows row = sequence;
  row.num_rows = 1;
  row.score_table = nullptr;
  const AttentionUnit unit = {
      .cache = &cache, .sequence = &row, .heads = heads, .num_heads = 1, .num_queries = 1};
  float* const work = work_.Floats(AttentionScratch::Floats(cache.head_dim));
  for (int64_t span = 0; span < unit.num_spans(); ++span) SpanProbabilities(unit, span, work, out);
}

// Sorts pointers to the heads by their planes, keeping the order of heads within a pair.
void AttentionRunner::GroupHeads(std::span<const HeadAttention> heads) {
  const auto before = [](const HeadAttention* a, const HeadAttention* b) {
    if (a->key_offset != b->key_offset) return a->key_offset < b->key_offset;
    if (a->value_offset != b->value_offset) return a->value_offset < b->value_offset;
    return a < b;
  };
  heads_.clear();
  for (const HeadAttention& head : heads) heads_.push_back(&head);
  std::sort(heads_.begin(), heads_.end(), before);
  group_ends_.clear();
  for (size_t i = 1; i <= heads_.size(); ++i) {
    const bool last = i == heads_.size() || heads_[i]->key_offset != heads_[i - 1]->key_offset ||
                      heads_[i]->value_offset != heads_[i - 1]->value_offset;
    if (last) group_ends_.push_back(static_cast<int64_t>(i));
  }
}

void AttentionRunner::CutUnits(const PagedArena& cache, std::span<const SequenceRows> sequences) {
  units_.clear();
  span_ends_.clear();
  max_queries_ = 0;
  int64_t spans = 0;
  for (const SequenceRows& sequence : sequences) {
    int64_t group_begin = 0;
    for (const int64_t group_end : group_ends_) {
      AttentionUnit unit{.cache = &cache, .sequence = &sequence};
      unit.heads = heads_.data() + group_begin;
      unit.num_heads = group_end - group_begin;
      const int64_t queries = sequence.num_rows * unit.num_heads;
      for (int64_t q = 0; q < queries; q += AttentionUnit::kMaxQueries) {
        unit.first_query = q;
        unit.num_queries = std::min(AttentionUnit::kMaxQueries, queries - q);
        max_queries_ = std::max(max_queries_, unit.num_queries);
        units_.push_back(unit);
        spans += unit.num_spans();
        span_ends_.push_back(spans);
      }
      group_begin = group_end;
    }
  }
}

// Runs each unit on one thread, its spans one after the other into one running state.
void AttentionRunner::RunWholeUnits(int32_t head_dim, ThreadPool& pool) {
  const auto count = static_cast<int64_t>(units_.size());
  const size_t state_floats = AttentionStateFloats(head_dim) * AttentionUnit::kMaxQueries;
  const size_t work_floats = AttentionScratch::Floats(head_dim);
  const auto threads = static_cast<size_t>(pool.num_threads());
  float* const work = work_.Floats(work_floats * threads);
  float* const states = states_.Floats(2 * state_floats * threads);
  int64_t pairs = 0;
  for (const AttentionUnit& unit : units_) {
    pairs += unit.num_queries * unit.context();
  }
  pool.ParallelFor(count, pairs < kSmallWork ? count : 1, [&](int64_t begin, int64_t end, int w) {
    float* const partial = states + static_cast<size_t>(w) * 2 * state_floats;
    float* const state = partial + state_floats;
    for (int64_t i = begin; i < end; ++i) {
      // Last first: later rows of a prompt read more, and long work should start early.
      AttentionUnit& unit = units_[static_cast<size_t>(count - 1 - i)];
      if (i + 1 < count) unit.next = &unit - 1;
      for (int64_t span = 0; span < unit.num_spans(); ++span) {
        AttendSpan(unit, span, work + static_cast<size_t>(w) * work_floats, partial);
        MergeSpan(unit, span, partial, state);
      }
      FinishUnit(unit, state);
    }
  });
}

bool AttentionRunner::WorthCuttingToSpans(size_t state_floats, const ThreadPool& pool) const {
  const auto units = static_cast<int64_t>(units_.size());
  if (units == 0 || units >= kUnitsPerThread * pool.num_threads()) return false;
  const int64_t spans = span_ends_.back();
  return pool.num_threads() > 1 && spans > units &&
         static_cast<size_t>(spans + units) * state_floats <= kMaxSpanStates;
}

// Runs all spans of all units at once, each into its own partial states; then merges them in order.
void AttentionRunner::RunSpans(int32_t head_dim, size_t state_floats, ThreadPool& pool) {
  const auto count = static_cast<int64_t>(units_.size());
  const int64_t spans = span_ends_.back();
  const size_t work_floats = AttentionScratch::Floats(head_dim);
  float* const work = work_.Floats(work_floats * static_cast<size_t>(pool.num_threads()));
  float* const partials = states_.Floats(state_floats * static_cast<size_t>(spans + count));
  float* const states = partials + state_floats * static_cast<size_t>(spans);
  pool.ParallelFor(spans, 1, [&](int64_t begin, int64_t end, int w) {
    for (int64_t i = begin; i < end; ++i) {
      const auto u = static_cast<size_t>(std::upper_bound(span_ends_.begin(), span_ends_.end(), i) -
                                         span_ends_.begin());
      const int64_t first = u == 0 ? 0 : span_ends_[u - 1];
      AttendSpan(units_[u], i - first, work + static_cast<size_t>(w) * work_floats,
                 partials + static_cast<size_t>(i) * state_floats);
    }
  });
  pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const auto u = static_cast<size_t>(i);
      const int64_t first = u == 0 ? 0 : span_ends_[u - 1];
      float* const state = states + u * state_floats;
      for (int64_t span = 0; span < units_[u].num_spans(); ++span) {
        MergeSpan(units_[u], span, partials + static_cast<size_t>(first + span) * state_floats,
                  state);
      }
      FinishUnit(units_[u], state);
    }
  });
}

}  // namespace strata::kernels
