#pragma once

#include "cuda_runtime.h"

namespace strata::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// A bfloat16 as a float, of the low or the high half of a pair.
__device__ __forceinline__ float LowBF16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float HighBF16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// The sum over a warp, the same bits in every lane: lanes 16 apart first, then 8, 4, 2, 1.
__device__ __forceinline__ float WarpSum(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, apart);
  }
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kWholeWarp, value, apart));
  }
  return value;
}

// Over a block of kThreads, the same bits in every thread: each warp, then the warps in order.
// `shared`: [kThreads / 32] floats that nobody else uses between two barriers.
template <int kThreads>
__device__ __forceinline__ float BlockSum(float value, float* shared) {
  const float sum = WarpSum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = sum;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < kThreads / kWarp; ++warp) total += shared[warp];
  return total;
}
template <int kThreads>
__device__ __forceinline__ float BlockMax(float value, float* shared) {
  const float most = WarpMax(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = most;
  __syncthreads();
  float total = shared[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) total = fmaxf(total, shared[warp]);
  return total;
}

}  // namespace strata::kernels::cuda
