#pragma once

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace strata::kernels {

// Row-wise parts of Backend's operations, on rows [begin, end); backend.h defines each. A row's
// bits depend on that row alone, and on no instruction set. REQUIRES: shapes match.

// Writes norm(row `row` of x) to `out`, [x.num_cols]. REQUIRES: norm.weight is not null.
void NormRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out);
void RopeRows(Rows x, int32_t head_dim, std::span<const int32_t> positions, const float* table,
              int64_t begin, int64_t end);
void MixRows(const ValueMix& mix, int64_t begin, int64_t end);

}  // namespace strata::kernels
