#pragma once

// Plain types only: bf16_tile_dot.cpp, which is compiled for AVX-512, includes this.
#include <cstddef>
#include <cstdint>

namespace strata::kernels {

inline constexpr size_t kBF16Depth = 256;   // inputs of a chain
inline constexpr size_t kBF16Columns = 32;  // outputs of a panel
inline constexpr size_t kBF16Group = 2;     // inputs that are side by side in a panel
inline constexpr size_t kBF16MaxRows = 12;

// Some rows times a panel, over one block of up to 256 inputs. Both are bf16, the products exact:
//   s = 0; for k = 0, 2, 4 ...: s = fma(x[r, k + 1], w[j, k + 1], s); s = fma(x[r, k], w[j, k], s)
//   sums[r, j] = first ? s : sums[r, j] + s
// which is the order of VDPBF16PS.
struct BF16Tile {
  // [rows][256]: x in bf16, or widened, as the kernel wants it; 0 from the last input on.
  const void* x = nullptr;
  const uint16_t* w = nullptr;       // [groups][32][2]
  const std::byte* later = nullptr;  // memory to prefetch meanwhile
  size_t later_step = 0;             // bytes of it for each group
  size_t groups = 0;                 // ceil(inputs / 2)
  bool first = false;
  float* sums = nullptr;  // [rows][32]
};

// One implementation of the tile. All implementations give the same bits, unless a number, a
// product or a sum is below 2^-126: VDPBF16PS takes that for 0.
struct BF16Kernel {
  bool widened = false;  // x is f32
  size_t max_rows = 0;   // of a tile whose sums stay in registers; at most kBF16MaxRows
  void (*multiply)(size_t rows, const BF16Tile& tile) = nullptr;  // 1 <= rows <= max_rows
};

// The fastest on the instruction sets in use.
BF16Kernel BestBF16Kernel();
// Highway's fused multiply-adds, on the target in use.
BF16Kernel PortableBF16Kernel();
// AVX-512's dot product of bf16 pairs. REQUIRES, to be run: HasBF16Dot().
BF16Kernel DotBF16Kernel();
// Whether the processor has VDPBF16PS and sums in the order above. Makers might differ in the
// order, so the instruction is tried on numbers that expose any other order.
bool HasBF16Dot();

// x rounded to bf16, nearest even: `to` gets f32 if `widened`, else bf16, and a 0 after an odd
// number of inputs. NaN stays NaN.
void RoundToBF16(const float* x, size_t count, bool widened, void* to);

}  // namespace strata::kernels
