#include <algorithm>

#include "kernels/cpu/attention.h"

namespace strata::kernels {
namespace {

constexpr int64_t kUnitsPerThread = 3;  // with fewer, units are cut into spans
constexpr int64_t kSmallWork = 4096;    // query x position pairs not worth a second thread
constexpr size_t kMaxSpanStates = size_t{16} << 20;  // floats of states that wait for the merge

}  // namespace

void AttentionRunner::Run(const PagedArena& cache, std::span<const SequenceRows> sequences,
                          std::span<const PlaneGroup> groups, ThreadPool& pool) {
  if (groups.empty()) return;
  const int32_t head_dim = groups[0].head_dim;
  CutUnits(cache, sequences, groups);
  const size_t state_floats = AttentionStateFloats(head_dim) * static_cast<size_t>(max_queries_);
  if (WorthCuttingToSpans(state_floats, pool)) {
    RunSpans(head_dim, state_floats, pool);
  } else {
    RunWholeUnits(head_dim, pool);
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

void AttentionRunner::Probabilities(const PagedArena& cache, const SequenceRows& sequence,
                                    const PlaneGroup& group, const HeadAttention& head,
                                    float* out) {
  PlaneGroup reuser = {.keys = group.keys, .values = group.values, .head_dim = group.head_dim};
  reuser.heads = {head};
  reuser.heads[0].reused_lse = head.lse;
  SequenceRows row = sequence;
  row.num_rows = 1;
  row.score_table = nullptr;
  const AttentionUnit unit = {
      .cache = &cache, .sequence = &row, .group = &reuser, .num_queries = 1};
  float* const work = work_.Floats(AttentionScratch::Floats(group.head_dim));
  for (int64_t span = 0; span < unit.num_spans(); ++span) SpanProbabilities(unit, span, work, out);
}

void AttentionRunner::CutUnits(const PagedArena& cache, std::span<const SequenceRows> sequences,
                               std::span<const PlaneGroup> groups) {
  units_.clear();
  span_ends_.clear();
  max_queries_ = 0;
  int64_t spans = 0;
  for (const SequenceRows& sequence : sequences) {
    for (const PlaneGroup& group : groups) {
      AttentionUnit unit{.cache = &cache, .sequence = &sequence, .group = &group};
      const int64_t queries = sequence.num_rows * unit.num_heads();
      for (int64_t q = 0; q < queries; q += AttentionUnit::kMaxQueries) {
        unit.first_query = q;
        unit.num_queries = std::min(AttentionUnit::kMaxQueries, queries - q);
        max_queries_ = std::max(max_queries_, unit.num_queries);
        units_.push_back(unit);
        spans += unit.num_spans();
        span_ends_.push_back(spans);
      }
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
