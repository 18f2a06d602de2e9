// kernels/cuda/ptx.cuh on the CPU: each instruction by the PTX manual, lane by lane. This header is
// found before the device's.
#pragma once

#include <array>

#include "cuda_runtime.h"
#include "kernels/convert.h"

namespace strata::kernels::ptx {

template <class T>
T* SharedMemory() {
  return reinterpret_cast<T*>(cuda_on_cpu::CurrentBlock().shared);
}

inline int Anew(int x) { return x; }

inline uint32_t RoundBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}
inline uint32_t PackBF16(float low, float high) { return RoundBF16(low) | RoundBF16(high) << 16; }

// Half precision by its definition: 11 bits of the number, fewer below 2^-14, infinity from 65520
// on.
inline uint16_t RoundF16(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return 0x7fff;
  const double size = std::abs(static_cast<double>(value));
  if (size == 0) return sign;
  const int exponent = std::max(std::ilogb(size), -14);
  const double steps = std::nearbyint(std::ldexp(size, 10 - exponent));  // 2048: one further up
  if (std::isinf(size) || std::ldexp(steps, exponent - 10) > 65504)
    return static_cast<uint16_t>(sign | 0x7c00);
  const auto number = static_cast<int>(steps) + ((exponent + 14) << 10);
  return static_cast<uint16_t>(sign | number);
}
inline uint32_t PackF16(float low, float high) {
  return RoundF16(low) | static_cast<uint32_t>(RoundF16(high)) << 16;
}
inline float FloatFromF16(uint16_t half) { return kernels::FloatFromF16(half); }
// 4 bits of exponent, 3 of fraction.
inline float FloatFromE4M3(uint8_t number) {
  static const auto kNumbers = [] {
    std::array<float, 256> numbers;
    for (int i = 0; i < 256; ++i) {
      const int exponent = i >> 3 & 0xf;
      const auto fraction = static_cast<float>(i & 7);
      const float size = (i & 0x7f) == 0x7f ? NAN
                         : exponent == 0    ? std::ldexp(fraction, -9)
                                            : std::ldexp(8 + fraction, exponent - 10);
      numbers[static_cast<size_t>(i)] = i < 128 ? size : -size;
    }
    return numbers;
  }();
  return kNumbers[number];
}

inline float ExpTwo(float x) { return std::exp2(x); }

// mma.sync.m16n8k16 and k32: a word of lane 4g + t holds kNumbers neighbouring numbers. A: rows g
// and g + 8, columns from kNumbers * t on and 4 kNumbers further. B: column g, the same rows as A's
// columns. C and D: rows g and g + 8, columns 2t, 2t + 1. number(word, i) reads one.
template <int kNumbers, class Sum, class Number>
void Mma(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Number number) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const cuda_on_cpu::WarpWords words = cuda_on_cpu::MeetWarp(mine, 6, "mma");
  const int g = cuda_on_cpu::Self().lane / 4;
  const int t = cuda_on_cpu::Self().lane % 4;
  for (int half = 0; half < 2; ++half) {  // of the inputs, k
    for (int q = 0; q < 4; ++q) {
      for (int row = 0; row < 2; ++row) {
        const uint32_t left = words[4 * g + q][2 * half + row];
        for (int column = 0; column < 2; ++column) {
          const uint32_t right = words[4 * (2 * t + column) + q][4 + half];
          Sum& sum = c[2 * row + column];
          for (int i = 0; i < kNumbers; ++i) sum = number(left, i) * number(right, i) + sum;
        }
      }
    }
  }
}
inline void MmaBF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Mma<2>(c, a, b, [](uint32_t word, int i) { return std::bit_cast<float>(word >> 16 * i << 16); });
}
inline void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Mma<2>(c, a, b,
         [](uint32_t word, int i) { return FloatFromF16(static_cast<uint16_t>(word >> 16 * i)); });
}
inline void MmaInt8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Mma<4>(c, a, b, [](uint32_t word, int i) {
    return static_cast<int32_t>(static_cast<int8_t>(word >> 8 * i));
  });
}
inline void MmaE4M3(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Mma<4>(c, a, b,
         [](uint32_t word, int i) { return FloatFromE4M3(static_cast<uint8_t>(word >> 8 * i)); });
}

// ldmatrix.x4: lane i gives row i % 8 of matrix i / 8. Lane 4g + t gets elements 2t and 2t + 1 of
// row g of each matrix, or, transposed, of column g.
inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  cuda_on_cpu::RequireAligned(row, 16, "ldmatrix");
  uint32_t mine[4];
  std::memcpy(mine, row, 16);
  const cuda_on_cpu::WarpWords words = cuda_on_cpu::MeetWarp(mine, 4, "ldmatrix");
  const int g = cuda_on_cpu::Self().lane / 4;
  const int t = cuda_on_cpu::Self().lane % 4;
  for (int m = 0; m < 4; ++m) r[m] = words[8 * m + g][t];
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
  cuda_on_cpu::RequireAligned(row, 16, "ldmatrix.trans");
  uint32_t mine[4];
  std::memcpy(mine, row, 16);
  const cuda_on_cpu::WarpWords words = cuda_on_cpu::MeetWarp(mine, 4, "ldmatrix.trans");
  const int g = cuda_on_cpu::Self().lane / 4;
  const int t = cuda_on_cpu::Self().lane % 4;
  const auto element = [&](int m, int i) {
    return words[8 * m + i][g / 2] >> (16 * (g % 2)) & 0xffffu;
  };
  for (int m = 0; m < 4; ++m) r[m] = element(m, 2 * t) | element(m, 2 * t + 1) << 16;
}

inline void CopyAsync(void* shared, const void* global, size_t bytes) {
  cuda_on_cpu::RequireAligned(shared, bytes, "cp.async to");
  cuda_on_cpu::RequireAligned(global, bytes, "cp.async from");
  const cuda_on_cpu::PendingCopy copy = {shared, global, bytes};
  if (cuda_on_cpu::CopiesAtOnce()) copy.Make();
  cuda_on_cpu::Self().copies.back().push_back(copy);
}
inline void CopyAsync16(void* shared, const void* global, bool valid) {
  CopyAsync(shared, valid ? global : nullptr, 16);
}
inline uint64_t CachePolicy(bool keep) { return keep ? 2 : 1; }
inline void CopyAsync16(void* shared, const void* global, bool valid, uint64_t policy) {
  if (valid) cuda_on_cpu::CountHinted(policy == CachePolicy(true), 16);
  CopyAsync16(shared, global, valid);
}
inline void CopyAsync4(void* shared, const void* global, bool valid) {
  CopyAsync(shared, valid ? global : nullptr, 4);
}
inline void CommitCopies() { cuda_on_cpu::Self().copies.emplace_back(); }
template <int kLeft>
void WaitCopies() {
  auto& groups = cuda_on_cpu::Self().copies;
  while (groups.size() > size_t{kLeft} + 1) {
    if (!cuda_on_cpu::CopiesAtOnce()) {
      for (const cuda_on_cpu::PendingCopy& copy : groups.front()) copy.Make();
    }
    groups.erase(groups.begin());
  }
}

inline uint4 LoadStreamed(const void* global) {
  cuda_on_cpu::RequireAligned(global, 16, "ld.global.v4");
  uint4 value;
  std::memcpy(&value, global, 16);
  return value;
}

}  // namespace strata::kernels::ptx
