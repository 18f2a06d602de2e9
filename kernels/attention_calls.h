#pragma once

#include <span>

#include "kernels/backend.h"

// Parts of Backend::PrepareAttention and Backend::Attention that are the same on every device.
namespace strata::kernels {

// STRATA_CHECK that the arguments fit together.
void CheckProjections(const PagedArena& cache, const Projections& projections);
void CheckAttention(const PagedArena& cache, std::span<const SequenceRows> sequences,
                    std::span<const PlaneGroup> groups);

// Add to the counters: rows written; for each (sequence, plane group) every row of keys and values
// up to the sequence's last position, keys only if scores are not found, and scores kept or found.
void CountWrites(const PagedArena& cache, const Projections& projections,
                 BackendCounters* counters);
void CountReads(const PagedArena& cache, std::span<const SequenceRows> sequences,
                std::span<const PlaneGroup> groups, BackendCounters* counters);

}  // namespace strata::kernels
