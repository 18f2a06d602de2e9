#include "kernels/cuda/attention_args.h"
#include "tests/bench/cuda/probe_kernels.h"

namespace strata::testing {
namespace {

constexpr int kThreads = 512;
constexpr int kDigits = 256;
constexpr int kPieceBits = 14;

__global__ void ReadKernel(const uint4* from, size_t count, uint32_t* out) {
  uint32_t sum = 0;
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
#pragma unroll 8
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += step) {
    const uint4 words = __ldcs(from + i);
    sum ^= words.x ^ words.y ^ words.z ^ words.w;
  }
  if (sum == 0x12345678u) *out = sum;  // keeps the compiler from dropping the loads
}

template <size_t kBytes>
struct Arguments {
  unsigned char bytes[kBytes];
};
constexpr size_t kFewBytes = 64;
constexpr size_t kAttentionBytes =
    sizeof(kernels::cuda::AttentionArgs) + sizeof(kernels::cuda::TensorLaunch);

template <size_t kBytes, bool kDependent>
__global__ void NothingKernel(const __grid_constant__ Arguments<kBytes> arguments, uint32_t* out) {
#if __CUDA_ARCH__ >= 900
  if (kDependent) asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  if (threadIdx.x == 0 && arguments.bytes[kBytes - 1] != 0) *out += 1;
#if __CUDA_ARCH__ >= 900
  if (kDependent) asm volatile("griddepcontrol.launch_dependents;");
#endif
}

template <bool kPieces>
__global__ void DigitSumsKernel(const float* logits, int count, unsigned long long* sums) {
  __shared__ unsigned long long whole[kDigits];
  __shared__ unsigned int pieces[3][kDigits];
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) {
    whole[i] = 0;
    for (auto& piece : pieces) piece[i] = 0;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const float logit = logits[i];
    const unsigned int bits = __float_as_uint(logit);
    const unsigned int digit = (bits >> 31 != 0 ? ~bits : bits | 0x80000000u) >> 24;
    const auto weight = static_cast<unsigned long long>(rintf(expf(logit - 16.0f) * 0x1p40f));
    if (kPieces) {
      constexpr unsigned int kMask = (1u << kPieceBits) - 1;
      atomicAdd(&pieces[0][digit], static_cast<unsigned int>(weight) & kMask);
      atomicAdd(&pieces[1][digit], static_cast<unsigned int>(weight >> kPieceBits) & kMask);
      atomicAdd(&pieces[2][digit], static_cast<unsigned int>(weight >> 2 * kPieceBits));
    } else {
      atomicAdd(&whole[digit], weight);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kDigits; i += kThreads) {
    unsigned long long sum = whole[i];
    for (int piece = 2; kPieces && piece >= 0; --piece) {
      sum = (sum << kPieceBits) + pieces[piece][i];
    }
    sums[i] = sum;
  }
}

__global__ void ExactProductKernel(const int8_t* w, const int8_t* x, int outputs, int inputs,
                                   int32_t* out) {
  const int output = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const size_t row = blockIdx.y;
  if (output >= outputs) return;
  const int8_t* const of_w = w + static_cast<size_t>(output) * static_cast<size_t>(inputs);
  const int8_t* const of_x = x + row * static_cast<size_t>(inputs);
  int32_t sum = 0;
  for (int i = 0; i < inputs; ++i) sum += of_w[i] * of_x[i];
  out[row * static_cast<size_t>(outputs) + static_cast<size_t>(output)] = sum;
}

template <size_t kBytes, bool kDependent>
cudaError_t Launch(cudaStream_t stream, int blocks, uint32_t* out) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned int>(blocks));
  config.blockDim = dim3(128);
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = kDependent ? 1 : 0;
  return cudaLaunchKernelEx(&config, NothingKernel<kBytes, kDependent>, Arguments<kBytes>{}, out);
}

}  // namespace

void LaunchRead(cudaStream_t stream, const void* from, size_t count, int blocks, uint32_t* out) {
  ReadKernel<<<static_cast<unsigned int>(blocks), kThreads, 0, stream>>>(
      static_cast<const uint4*>(from), count, out);
}

size_t SizeOf(ArgumentBytes bytes) {
  return bytes == ArgumentBytes::kFew ? kFewBytes : kAttentionBytes;
}

cudaError_t LaunchNothing(cudaStream_t stream, ArgumentBytes bytes, int blocks, bool dependent,
                          uint32_t* out) {
  if (bytes == ArgumentBytes::kFew) {
    return dependent ? Launch<kFewBytes, true>(stream, blocks, out)
                     : Launch<kFewBytes, false>(stream, blocks, out);
  }
  return dependent ? Launch<kAttentionBytes, true>(stream, blocks, out)
                   : Launch<kAttentionBytes, false>(stream, blocks, out);
}

void LaunchDigitSums(cudaStream_t stream, bool pieces, const float* logits, int count,
                     unsigned long long* sums) {
  if (pieces) {
    DigitSumsKernel<true><<<1, kThreads, 0, stream>>>(logits, count, sums);
  } else {
    DigitSumsKernel<false><<<1, kThreads, 0, stream>>>(logits, count, sums);
  }
}

void LaunchExactProduct(cudaStream_t stream, const int8_t* w, const int8_t* x, int outputs,
                        int inputs, int rows, int32_t* out) {
  const dim3 grid(static_cast<unsigned int>((outputs + 127) / 128),
                  static_cast<unsigned int>(rows));
  ExactProductKernel<<<grid, 128, 0, stream>>>(w, x, outputs, inputs, out);
}

}  // namespace strata::testing
