#pragma once

// Plain types only: int8_tile_vnni.cpp, which is compiled for AVX-512, includes this.
#include <cstddef>
#include <cstdint>

namespace strata::kernels {

inline constexpr size_t kInt8Depth = 256;   // inputs that share a scale, and one exact i32 sum
inline constexpr size_t kInt8Columns = 32;  // outputs of a panel
inline constexpr size_t kInt8Group = 4;     // inputs that are side by side in a panel
inline constexpr size_t kInt8MaxRows = 12;
// Weights are kept as w + 128 in unsigned bytes, as the instruction requires.
inline constexpr int32_t kInt8Offset = 128;

// Some rows times a panel, over one block of up to 256 inputs:
//   sums[r, j] = fma(sum_k x[r, k] * w[j, k], scales[r], first ? 0 : sums[r, j])
// where the inner sum is exact: at most 256 * 127 * 127 < 2^24.
struct Int8Tile {
  // [rows][256], in [-127, 127], as the kernel wants them; 0 from the last input to the group's
  // end.
  const void* x = nullptr;
  const int32_t* starts = nullptr;   // [rows]: -128 * sum_k x[r, k], which undoes the 128 of w
  const float* scales = nullptr;     // [rows]
  const uint8_t* w = nullptr;        // [groups][32][4]: w[j, k] + 128
  const std::byte* later = nullptr;  // memory to prefetch meanwhile
  size_t later_step = 0;             // bytes of it for each group
  size_t groups = 0;                 // ceil(inputs / 4)
  bool first = false;
  float* sums = nullptr;  // [rows][32]
};

// One implementation of the tile. All implementations give the same bits.
struct Int8Kernel {
  bool widened = false;  // x is i16, each group in the order 0, 2, 1, 3; else i8
  size_t max_rows = 0;   // of a tile whose sums stay in registers; at most kInt8MaxRows
  void (*multiply)(size_t rows, const Int8Tile& tile) = nullptr;  // 1 <= rows <= max_rows
};

// The fastest on the instruction sets in use.
Int8Kernel BestInt8Kernel();
// Highway's instructions, on the target in use.
Int8Kernel PortableInt8Kernel();
// AVX-512's dot product of bytes. REQUIRES, to be run: HasVnni().
Int8Kernel VnniInt8Kernel();
bool HasVnni();

}  // namespace strata::kernels
