#pragma once

#include <cmath>

#include "cuda_runtime.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/product_kernels.h"

namespace strata::kernels::cuda {

__device__ __forceinline__ float Gated(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}

// The value of a sum over numbers of type T; `stored` is the sum's row of the matrix.
template <class T>
__device__ __forceinline__ float Unscaled(const Product& product, int64_t row, int64_t stored,
                                          SumOf<T> sum) {
  const auto value = static_cast<float>(sum);
  if constexpr (kHasScale<T>) {
    return value * (product.x_scales[row] * product.weights.scales[stored]);
  } else {
    return value;
  }
}

// Stores the sum of an output (kSet, kAdd). Padding is left out.
template <class T>
__device__ __forceinline__ void StoreSum(const Product& product, int64_t row, int64_t output,
                                         SumOf<T> sum) {
  if (row >= product.out.num_rows || output >= product.out.num_cols) return;
  float* const to = product.out.data + row * product.out.stride + output;
  const float value = Unscaled<T>(product, row, output, sum);
  *to = product.epilogue == Epilogue::kAdd ? *to + value : value;
}
// Stores silu(gate) * up; `stored` is the gate's row of the matrix.
template <class T>
__device__ __forceinline__ void StoreGated(const Product& product, int64_t row, int64_t stored,
                                           SumOf<T> gate, SumOf<T> up) {
  const int64_t column = stored / 16 * 8 + stored % 8;
  if (row >= product.out.num_rows || column >= product.out.num_cols) return;
  product.out.data[row * product.out.stride + column] =
      Gated(Unscaled<T>(product, row, stored, gate), Unscaled<T>(product, row, stored + 8, up));
}

}  // namespace strata::kernels::cuda
