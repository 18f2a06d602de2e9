#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/thread_pool.h"

namespace strata::kernels {

// A piece of attention's work: consecutive queries of one sequence, over all heads of one plane
// group. Queries are numbered row by row, all heads of a
// row before the next row. A unit may begin at any query.
struct AttentionUnit {
  // Queries of a unit: enough to pay for reading a span, few enough for the second cache.
  static constexpr int64_t kMaxQueries = 64;

  const PagedArena* cache = nullptr;
  const SequenceRows* sequence = nullptr;
  const PlaneGroup* group = nullptr;
  int64_t first_query = 0;  // of the sequence
  int64_t num_queries = 0;
  // The unit that this thread is likely to run next, for prefetching; null: unknown.
  const AttentionUnit* next = nullptr;

  int64_t num_heads() const { return std::ssize(group->heads); }
  // Whether the unit reads scores that were computed and stored earlier in this step.
  bool finds_scores() const { return group->FindsScores(*sequence); }
  // Positions that the unit's last query sees, and the spans they reach into.
  int64_t context() const {
    return sequence->first_position + (first_query + num_queries - 1) / num_heads() + 1;
  }
  int64_t num_spans() const {
    return (context() + Backend::kAttentionSpan - 1) / Backend::kAttentionSpan;
  }
  // The unit's first query that sees `position` (of a span that some query sees).
  int64_t FirstQueryAt(int64_t position) const {
    const int64_t query = (position - sequence->first_position) * num_heads() - first_query;
    return query > 0 ? query : 0;
  }
};

// Walks over a unit's queries.
//
//   for (QueryCursor at(unit, 0); !at.done(); at.Next()) { at.head().output + at.row() * ... }
class QueryCursor {
 public:
  QueryCursor(const AttentionUnit& unit, int64_t query)
      : unit_(unit),
        query_(query),
        num_heads_(unit.num_heads()),
        head_((unit.first_query + query) % num_heads_),
        row_((unit.first_query + query) / num_heads_) {}

  bool done() const { return query_ == unit_.num_queries; }
  void Next() {
    ++query_;
    if (++head_ == num_heads_) {
      head_ = 0;
      ++row_;
    }
  }
  int64_t query() const { return query_; }  // of the unit
  const HeadAttention& head() const { return unit_.group->heads[static_cast<size_t>(head_)]; }
  int64_t row() const { return unit_.sequence->first_row + row_; }  // of the batch
  int64_t position() const { return unit_.sequence->first_position + row_; }

 private:
  const AttentionUnit& unit_;
  int64_t query_;
  const int64_t num_heads_;
  int64_t head_;
  int64_t row_;
};

// State of one query, over one span or merged: maximum, sum, 14 unused floats, then the weighted
// values [head_dim], padded to 16.
constexpr size_t kStateValues = 16;
constexpr size_t AttentionStateFloats(int32_t head_dim) {
  return kStateValues + (static_cast<size_t>(head_dim) + 15) / 16 * 16;
}

// Layout of the memory that AttendSpan() works in, one part after the other.
struct AttentionScratch {
  static constexpr size_t kQueries = size_t{AttentionUnit::kMaxQueries} * 256;  // [queries][256]
  static constexpr size_t kScores = size_t{12} * 256;                           // [tile rows][256]
  static constexpr size_t kScales = 256;  // of the span's keys; as many follow for its values

  static constexpr size_t Keys(int32_t head_dim) {  // [head_dim][256]
    return static_cast<size_t>(head_dim) * 256;
  }
  static constexpr size_t Values(int32_t head_dim) {  // [256][head_dim padded to 16]
    return 256 * ((static_cast<size_t>(head_dim) + 15) / 16 * 16);
  }
  static constexpr size_t Floats(int32_t head_dim) {
    return kQueries + kScores + 2 * kScales + Keys(head_dim) + Values(head_dim);
  }
};

// Computes one span for every query of the unit that sees it. scratch: AttentionScratch, 64-byte
// aligned; partial: [num_queries] states.
void AttendSpan(const AttentionUnit& unit, int64_t span, float* scratch, float* partial);
// Merges the span's partial states into the running ones; spans come in order, from 0.
void MergeSpan(const AttentionUnit& unit, int64_t span, const float* partial, float* state);
// Writes the probabilities of the unit's only query over a span to out[position]. REQUIRES: the
// query's head has a reused_lse.
void SpanProbabilities(const AttentionUnit& unit, int64_t span, float* scratch, float* out);
// Writes output and log-sum-exp of every query.
void FinishUnit(const AttentionUnit& unit, const float* state);

// Runs Backend::Attention on a pool: cuts the work into units and, if these are too few for the
// threads, units into spans. The cut changes no bits. Not thread-safe.
class AttentionRunner {
 public:
  void Run(const PagedArena& cache, std::span<const SequenceRows> sequences,
           std::span<const PlaneGroup> groups, ThreadPool& pool);
  // Backend::AttentionProbabilities, on the calling thread.
  void Probabilities(const PagedArena& cache, const SequenceRows& sequence, const PlaneGroup& group,
                     const HeadAttention& head, float* out);
  // Bytes of scratch: the most that steps may take, and the bytes taken so far.
  static size_t MostScratchBytes(const StepLimits& limits, int num_threads);
  size_t scratch_bytes() const { return work_.bytes() + states_.bytes(); }

 private:
  void CutUnits(const PagedArena& cache, std::span<const SequenceRows> sequences,
                std::span<const PlaneGroup> groups);
  void RunWholeUnits(int32_t head_dim, ThreadPool& pool);
  bool WorthCuttingToSpans(size_t state_floats, const ThreadPool& pool) const;
  void RunSpans(int32_t head_dim, size_t state_floats, ThreadPool& pool);

  std::vector<AttentionUnit> units_;
  std::vector<int64_t> span_ends_;  // running total of the units' spans
  int64_t max_queries_ = 0;         // of a unit
  Scratch work_;                    // AttentionScratch of each worker
  Scratch states_;
};

}  // namespace strata::kernels
