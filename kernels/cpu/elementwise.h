#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace strata::kernels {

// Row-wise parts of Backend's operations, on rows [begin, end); backend.h and attention_types.h
// define each. A row's bits depend on that row alone, and on no instruction set. REQUIRES: shapes
// match.

// Writes norm(row `row` of x) to `out`, [x.num_cols]. REQUIRES: norm.weight is not null.
void NormRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out);
// A way's steps before the cache: bias, norm, rotation, mix. positions: [num_rows], of all rows.
void RunWay(const HeadWay& way, std::span<const int32_t> positions, int64_t begin, int64_t end);

}  // namespace strata::kernels
