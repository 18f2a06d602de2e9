#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"

namespace strata::kernels {

// Writes rows [begin, end) of a way to its plane, at `slots`, [num_rows]. Keys are transposed in
// their plane, [head_dim][block_tokens], so that scores are computed side by side for neighbouring
// tokens; values are [block_tokens][head_dim]. bf16 rounds to nearest even.
//
// int8: scale = max |x| / 127, numbers = x / scale to nearest even, all 0 if the scale is 0. A row
// with a NaN or an infinity has a scale of NaN, so that its readers see NaN.
// REQUIRES: way.is_written
void WritePlaneRows(const PagedArena& cache, std::span<const int64_t> slots, const HeadWay& way,
                    int64_t begin, int64_t end);

}  // namespace strata::kernels
