#pragma once

#include "cuda_runtime.h"

namespace strata::kernels::cuda {

// A sum or a weighted value of two parts of a context, with the weights of Weigh() (paging.h). One
// expression for all kernels, so that no bit depends on the kernel that merges.
__device__ __forceinline__ float Merged(float so_far, float kept, float next, float added) {
  return fmaf(so_far, kept, next * added);
}

}  // namespace strata::kernels::cuda
