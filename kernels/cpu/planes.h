#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"

namespace strata::kernels {

// Backend::WritePlanes for rows [begin, end) of one write. Keys stand transposed in their plane,
// [head_dim][block_tokens], so that scores are computed side by side for neighbouring tokens;
// values stand as [block_tokens][head_dim]. bf16 rounds to nearest even.
void WritePlaneRows(const PagedArena& cache, std::span<const int64_t> slots,
                    const PlaneWrite& write, int64_t begin, int64_t end);

}  // namespace strata::kernels
