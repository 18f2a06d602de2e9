#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime.h"

namespace strata::testing {

// Reads `count` vectors of 16 bytes and does nothing with them; `out` is one number.
void LaunchRead(cudaStream_t stream, const void* from, size_t count, int blocks, uint32_t* out);

// A kernel that does nothing, with few bytes of arguments (64) or as many as our attention's.
// dependent: it may begin before the kernel before it has ended, and waits for that itself.
enum class ArgumentBytes { kFew, kAttention };
size_t SizeOf(ArgumentBytes bytes);
cudaError_t LaunchNothing(cudaStream_t stream, ArgumentBytes bytes, int blocks, bool dependent,
                          uint32_t* out);

// Sums 40 bits of each of `count` logits' weights by the first byte of its key, in shared memory:
// in 64 bits at once, or in three pieces of 32. sums: [256].
void LaunchDigitSums(cudaStream_t stream, bool pieces, const float* logits, int count,
                     unsigned long long* sums);  // NOLINT(google-runtime-int): CUDA's atomics'

// Naive: out[r][o] = sum_k w[o][k] x[r][k].
void LaunchExactProduct(cudaStream_t stream, const int8_t* w, const int8_t* x, int outputs,
                        int inputs, int rows, int32_t* out);

}  // namespace strata::testing
