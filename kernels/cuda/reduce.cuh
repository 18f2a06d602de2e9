#pragma once

#include "cuda_runtime.h"

namespace strata::kernels::cuda {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The sum over a warp, the same bits in every lane: lanes 16 apart first, then 8, 4, 2, 1.
__device__ __forceinline__ float WarpSum(float value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, apart);
  }
  return value;
}
__device__ __forceinline__ float Larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ uint32_t Larger(uint32_t a, uint32_t b) { return max(a, b); }
template <class T>
__device__ __forceinline__ T WarpMax(T value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    value = Larger(value, __shfl_xor_sync(kWholeWarp, value, apart));
  }
  return value;
}

// Over a block of kThreads, the same bits in every thread: each warp, then the warps in order.
// `shared`: [kThreads / 32] that no other code uses between two barriers.
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
template <int kThreads, class T>
__device__ __forceinline__ T BlockMax(T value, T* shared) {
  const T most = WarpMax(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = most;
  __syncthreads();
  T total = shared[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) total = Larger(total, shared[warp]);
  return total;
}

}  // namespace strata::kernels::cuda
