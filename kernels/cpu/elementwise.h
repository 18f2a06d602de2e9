#pragma once

#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace strata::kernels {

// The row-wise operations of Backend on rows [begin, end); what each computes stands there. A row's
// bits depend on that row alone, and on no instruction set. REQUIRES: shapes match.

void RmsNormRows(ConstRows x, const float* weight, float epsilon, Rows out, int64_t begin,
                 int64_t end);
void RopeRows(Rows x, int32_t head_dim, std::span<const int32_t> positions, const float* table,
              int64_t begin, int64_t end);
void MixRows(Rows v, ConstRows first_values, float own, float first, int64_t begin, int64_t end);
void SwiGluRows(ConstRows gate_up, Rows out, int64_t begin, int64_t end);

}  // namespace strata::kernels
