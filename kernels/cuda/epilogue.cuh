#pragma once

#include <cmath>

#include "cuda_runtime.h"
#include "kernels/cuda/product_kernels.h"

namespace strata::kernels::cuda {

__device__ __forceinline__ float Gated(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

// Stores the sum of an output (kSet, kAdd). Padding is left out.
__device__ __forceinline__ void StoreSum(const Product& product, int64_t row, int64_t output,
                                         float sum) {
  if (row >= product.out.num_rows || output >= product.out.num_cols) return;
  float* const to = product.out.data + row * product.out.stride + output;
  *to = product.epilogue == Epilogue::kAdd ? *to + sum : sum;
}
// Stores what a gate and its up give; `stored` is the gate's row of the matrix.
__device__ __forceinline__ void StoreGated(const Product& product, int64_t row, int64_t stored,
                                           float gate, float up) {
  const int64_t column = stored / 16 * 8 + stored % 8;
  if (row >= product.out.num_rows || column >= product.out.num_cols) return;
  product.out.data[row * product.out.stride + column] = Gated(gate, up);
}

}  // namespace strata::kernels::cuda
