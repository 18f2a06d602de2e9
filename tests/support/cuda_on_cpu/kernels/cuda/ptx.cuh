// kernels/cuda/ptx.cuh on the CPU: what the PTX manual says of each instruction, lane by lane. This
// header is found before the device's.
#pragma once

#include "cuda_runtime.h"

namespace strata::kernels::ptx {

template <class T>
T* SharedMemory() {
  return reinterpret_cast<T*>(cuda_on_cpu::CurrentBlock().shared);
}

inline uint32_t RoundBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}
inline uint32_t PackBF16(float low, float high) { return RoundBF16(low) | RoundBF16(high) << 16; }

inline float ExpTwo(float x) { return std::exp2(x); }

// mma.sync.m16n8k16: lane 4g + t holds of A rows g and g + 8, columns 2t, 2t + 1 and 8 further; of
// B column g, rows 2t, 2t + 1 and 8 further; of C and D rows g and g + 8, columns 2t, 2t + 1.
inline void MmaBF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const cuda_on_cpu::WarpWords words = cuda_on_cpu::MeetWarp(mine, 6, "mma");
  const int g = cuda_on_cpu::Self().lane / 4;
  const int t = cuda_on_cpu::Self().lane % 4;
  const auto low = [](uint32_t pair) { return std::bit_cast<float>(pair << 16); };
  const auto high = [](uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); };
  for (int half = 0; half < 2; ++half) {  // of the inputs, k
    for (int q = 0; q < 4; ++q) {
      for (int row = 0; row < 2; ++row) {
        const uint32_t left = words[4 * g + q][2 * half + row];
        for (int column = 0; column < 2; ++column) {
          const uint32_t right = words[4 * (2 * t + column) + q][4 + half];
          float& sum = c[2 * row + column];
          sum = low(left) * low(right) + sum;
          sum = high(left) * high(right) + sum;
        }
      }
    }
  }
}

// ldmatrix.x4: lane i gives row i % 8 of matrix i / 8 and gets of each matrix the elements 2t and
// 2t + 1 of row g, or, transposed, of column g.
inline void LoadMatrices(uint32_t (&r)[4], const void* row) {
  uint32_t mine[4];
  std::memcpy(mine, row, 16);
  const cuda_on_cpu::WarpWords words = cuda_on_cpu::MeetWarp(mine, 4, "ldmatrix");
  const int g = cuda_on_cpu::Self().lane / 4;
  const int t = cuda_on_cpu::Self().lane % 4;
  for (int m = 0; m < 4; ++m) r[m] = words[8 * m + g][t];
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const void* row) {
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
  const cuda_on_cpu::PendingCopy copy = {shared, global, bytes};
  if (cuda_on_cpu::CopiesAtOnce()) copy.Make();
  cuda_on_cpu::Self().copies.back().push_back(copy);
}
inline void CopyAsync16(void* shared, const void* global, bool valid) {
  CopyAsync(shared, valid ? global : nullptr, 16);
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
  uint4 value;
  std::memcpy(&value, global, 16);
  return value;
}

}  // namespace strata::kernels::ptx
