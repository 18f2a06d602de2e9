#include "kernels/attention_calls.h"

#include <algorithm>

#include "kernels/check.h"

namespace strata::kernels {

void CheckProjections(const PagedArena& cache, const Projections& projections) {
  for (const HeadWay& way : projections.ways) {
    STRATA_CHECK(way.head_dim > 0 && way.head_dim <= Backend::kMaxHeadDim, "a head within limits");
    STRATA_CHECK(way.rotated % 2 == 0 && way.rotated <= way.head_dim, "dimensions turn in pairs");
    STRATA_CHECK(way.rotated == 0 || std::ssize(projections.positions) == projections.num_rows,
                 "a position for every row");
    if (!way.is_written) continue;
    STRATA_CHECK(projections.num_rows * cache.block_groups == std::ssize(projections.slots),
                 "a slot for every row in every block group");
    STRATA_CHECK(way.plane.block_group < cache.block_groups, "a block group of the cache");
  }
}

void CheckAttention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                    std::span<const PlaneGroup> groups) {
  for (const PlaneGroup& group : groups) {
    STRATA_CHECK(group.head_dim > 0 && group.head_dim <= Backend::kMaxHeadDim,
                 "a head within limits");
    STRATA_CHECK(group.keys.block_group < cache.block_groups &&
                     group.values.block_group < cache.block_groups,
                 "block groups of the cache");
    STRATA_CHECK(group.head_dim == groups[0].head_dim && !group.heads.empty(),
                 "heads of one size read the planes");
  }
  for (const SequenceRows& sequence : sequences) {
    STRATA_CHECK(
        sequence.score_table == nullptr || (sequence.num_rows <= 1 && cache.scores != nullptr),
        "scores are kept for one row of a sequence, if they have memory");
  }
}

void CountWrites(const PagedArena& cache, const Projections& projections,
                 BackendCounters* counters) {
  for (const HeadWay& way : projections.ways) {
    if (!way.is_written) continue;
    counters->cache_bytes_written +=
        projections.num_rows * static_cast<int64_t>(cache.TokenBytes(way.kind, way.head_dim));
  }
}

void CountReads(const PagedArena& cache, std::span<const SequenceRows> sequences,
                std::span<const PlaneGroup> groups, BackendCounters* counters) {
  for (const PlaneGroup& group : groups) {
    const auto keys = static_cast<int64_t>(cache.TokenBytes(PlaneKind::kKey, group.head_dim));
    const auto values = static_cast<int64_t>(cache.TokenBytes(PlaneKind::kValue, group.head_dim));
    const int64_t with_slots = std::ranges::count_if(
        group.heads, [](const HeadAttention& head) { return head.score_slot >= 0; });
    for (const SequenceRows& sequence : sequences) {
      if (sequence.num_rows == 0) continue;
      const int64_t positions = sequence.first_position + sequence.num_rows;
      const bool finds = group.FindsScores(sequence);
      counters->cache_bytes_read += positions * (values + (finds ? 0 : keys));
      if (sequence.score_table == nullptr) continue;
      (finds ? counters->score_bytes_read : counters->score_bytes_written) +=
          positions * with_slots * static_cast<int64_t>(sizeof(float));
    }
  }
}

}  // namespace strata::kernels
