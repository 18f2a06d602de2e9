#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor.h"

namespace strata::kernels {

// Computes Backend::MatMul, out (= or +=) norm(x) * transpose(w), or, if w is gated,
// Backend::GatedMatMul (`store` is kSet). Each element is a chain of fused multiply-adds over 256
// consecutive inputs at a time, the chains' ends added left to right; kAdd adds the finished sum to
// `out`. `scratch` holds a copy of norm(x) in tile order. Weights in bf16 meet x in bf16, in pairs
// of inputs (bf16_tile.h). Weights in 8 bits meet x in 8 bits: exact integer sums over 256 inputs
// at a time, scaled and chained (int8_tile.h), then times the output's scale.
// REQUIRES: shapes match; x and out do not overlap.
void PackedMatMul(const PackedMatrix& w, ConstRows x, const RmsNorm& norm, Rows out,
                  Backend::Store store, Scratch& scratch, ThreadPool& pool);

// Upper bound on the floats of `scratch` for an x of [num_rows, num_cols].
size_t ProductScratchFloats(int64_t num_rows, int64_t num_cols, const ThreadPool& pool);

}  // namespace strata::kernels
