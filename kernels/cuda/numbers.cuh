// Types of the numbers in weights, inputs of products and planes: conversion from and to float, and
// multiplication by a whole warp.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cuda_runtime.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/tensor.h"

namespace strata::kernels::cuda {

struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
// 8 bits: each row has a scale beside it, the largest |x| over the largest number.
struct Int8 {
  uint8_t bits;
};
struct E4M3 {
  uint8_t bits;  // sign, 4 of exponent, 3 of fraction; no infinity
};

template <class T>
constexpr bool kHasScale = sizeof(T) == 1;
template <class T>
constexpr float kLargest = std::is_same_v<T, Int8> ? 127.0f : 448.0f;

__device__ __forceinline__ float ToFloat(float number) { return number; }
__device__ __forceinline__ float ToFloat(BF16 number) {
  return __uint_as_float(uint32_t{number.bits} << 16);
}
__device__ __forceinline__ float ToFloat(F16 number) { return ptx::FloatFromF16(number.bits); }
// 2^23 + 128 + q has q + 128 in its lowest byte.
__device__ __forceinline__ float ToFloat(Int8 number) {
  return __uint_as_float(0x4b000000u | (number.bits ^ 0x80u)) - 8388736.0f;
}
// A float's exponent bias is 120 higher.
__device__ __forceinline__ float ToFloat(E4M3 number) {
  return __uint_as_float((number.bits & 0x80u) << 24 | (number.bits & 0x7fu) << 20) * 0x1p120f;
}

// The nearest number, ties to even; in 8 bits the largest number for values beyond it.
template <class T>
__device__ __forceinline__ T FromFloat(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else if constexpr (std::is_same_v<T, BF16>) {
    return {static_cast<uint16_t>(ptx::PackBF16(value, 0.0f))};
  } else if constexpr (std::is_same_v<T, F16>) {
    return {static_cast<uint16_t>(ptx::PackF16(value, 0.0f))};
  } else if constexpr (std::is_same_v<T, Int8>) {
    const float number = fminf(fmaxf(rintf(value), -kLargest<T>), kLargest<T>);
    return {static_cast<uint8_t>(static_cast<int8_t>(number))};
  } else {
    static_assert(std::is_same_v<T, E4M3>);
    const uint32_t bits = __float_as_uint(value);
    const float size = fminf(fabsf(value), kLargest<T>);
    uint32_t number;
    if (size < 0x1p-6f) {  // steps of 2^-9; 8 of them are the least normal number
      number = static_cast<uint32_t>(rintf(size * 512.0f));
    } else {
      const uint32_t wide = __float_as_uint(size);
      number = ((wide + 0x7ffffu + (wide >> 20 & 1u)) >> 20) - (120u << 3);
    }
    return {static_cast<uint8_t>((bits >> 24 & 0x80u) | number)};
  }
}

// The bits of |x|, which order as the numbers do, with NaN above infinity.
__device__ __forceinline__ uint32_t Magnitude(float value) {
  return __float_as_uint(value) & 0x7fffffffu;
}
// The scale of a row with this largest magnitude: 0 for zeros, NaN if one is not finite.
template <class T>
__device__ __forceinline__ float ScaleOf(uint32_t largest) {
  return __uint_as_float(largest < 0x7f800000u ? largest : 0x7fc00000u) / kLargest<T>;
}
// A number of a row with that scale.
template <class T>
__device__ __forceinline__ T Scaled(float value, float scale) {
  return FromFloat<T>(scale > 0 ? value / scale : 0.0f);
}

// Two 16-bit numbers, `low` in the low half.
template <class T>
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  static_assert(sizeof(T) == 2);
  if constexpr (std::is_same_v<T, BF16>) {
    return ptx::PackBF16(low, high);
  } else {
    return ptx::PackF16(low, high);
  }
}

// c[16][8] += a[16][32 bytes] * b[32 bytes][8] by a whole warp (ptx.cuh). Sums of Int8 are exact.
template <class T>
using SumOf = std::conditional_t<std::is_same_v<T, Int8>, int32_t, float>;
template <class T>
__device__ __forceinline__ void MultiplyFragments(SumOf<T> (&c)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, BF16>) {
    ptx::MmaBF16(c, a, b);
  } else if constexpr (std::is_same_v<T, F16>) {
    ptx::MmaF16(c, a, b);
  } else if constexpr (std::is_same_v<T, Int8>) {
    ptx::MmaInt8(c, a, b);
  } else {
    static_assert(std::is_same_v<T, E4M3>);
    ptx::MmaE4M3(c, a, b);
  }
}

// f.template operator()<T>() with the type of `format`, which has fragments: any but f32.
template <class F>
constexpr auto WithFragments(NumberFormat auto format, F f) {
  using Format = decltype(format);
  switch (format) {
    case Format::kF16:
      return f.template operator()<F16>();
    case Format::kI8:
      return f.template operator()<Int8>();
    case Format::kF8:
      return f.template operator()<E4M3>();
    default:
      return f.template operator()<BF16>();
  }
}
// Any type. For host and device.
template <class F>
constexpr auto WithNumbers(NumberFormat auto format, F f) {
  return format == decltype(format)::kF32 ? f.template operator()<float>()
                                          : WithFragments(format, f);
}

}  // namespace strata::kernels::cuda
