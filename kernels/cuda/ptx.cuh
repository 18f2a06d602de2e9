// Instructions that C++ has no words for, each in a function of its own. Tests have a header of the
// same name with the meaning of each in plain C++ (tests/support/cuda_on_cpu).
#pragma once

#include <cstdint>

#include "cuda_runtime.h"

namespace strata::kernels::ptx {

// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ __forceinline__ T* SharedMemory() {
  extern __shared__ uint4 strata_shared_memory[];
  return reinterpret_cast<T*>(strata_shared_memory);
}

// Returns x. Values computed from the result are computed at that place: the compiler does not
// compute them before a loop and keep them in registers all through it.
__device__ __forceinline__ int Anew(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Two bfloat16, rounded to nearest even, `low` in the low half.
__device__ __forceinline__ uint32_t PackBF16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
// Two halfs, likewise.
__device__ __forceinline__ uint32_t PackF16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
__device__ __forceinline__ float FloatFromF16(uint16_t half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}

// 2^x, within 2 units in the last place; 0 far below.
__device__ __forceinline__ float ExpTwo(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// c[16][8] += a[16][16] * b[16][8] in bfloat16 with sums in f32, by a whole warp. Lane 4g + t
// holds:
//   a: rows g (0, 2) and g + 8 (1, 3), columns 2t, 2t + 1 (0, 1) and 8 further (2, 3)
//   b: column g, rows 2t, 2t + 1 (0) and 8 further (1)
//   c: row g, columns 2t (0) and 2t + 1 (1); row g + 8, the same columns (2, 3)
__device__ __forceinline__ void MmaBF16(float (&c)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same in half precision.
__device__ __forceinline__ void MmaF16(float (&c)[4], const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// c[16][8] += a[16][32] * b[32][8] in bytes: four bytes in place of two 16-bit numbers.
__device__ __forceinline__ void MmaInt8(int32_t (&c)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// From compute capability 8.9 on.
__device__ __forceinline__ void MmaE4M3([[maybe_unused]] float (&c)[4],
                                        [[maybe_unused]] const uint32_t (&a)[4],
                                        [[maybe_unused]] const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 890
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
  __trap();  // the backend refuses fp8 weights on such devices
#endif
}

// Loads four matrices of 8 rows of 16 bytes from shared memory, by a whole warp: lane i gives the
// address of row i % 8 of matrix i / 8. Lane 4g + t gets elements 2t and 2t + 1 of row g of matrix
// m in r[m].
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// The same transposed: lane 4g + t gets elements 2t and 2t + 1 of column g of matrix m in r[m].
__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Copies 16 bytes from global to shared memory, both 16-byte aligned, past the registers and the
// first cache. Writes zeros and does not read global if not `valid`. Part of the group that
// CommitCopies closes; WaitCopies<n> waits until at most this thread's n latest groups are under
// way.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
               :
               : "r"(address), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
// How long the second cache holds data read with this policy: longer than other data, or less long.
__device__ __forceinline__ uint64_t CachePolicy(bool keep) {
  uint64_t last;
  uint64_t first;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(last));
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(first));
  return keep ? last : first;
}
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid,
                                            uint64_t policy) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;"
               :
               : "r"(address), "l"(global), "r"(valid ? 16 : 0), "l"(policy)
               : "memory");
}
// CopyAsync16 for 4 bytes, through the first cache.
__device__ __forceinline__ void CopyAsync4(void* shared, const void* global, bool valid) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(address), "l"(global), "r"(valid ? 4 : 0)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(kLeft) : "memory");
}

// Loads 16 bytes that are read once: they stay out of the first cache.
__device__ __forceinline__ uint4 LoadStreamed(const void* global) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(global));
  return value;
}

}  // namespace strata::kernels::ptx
