// The only file compiled for AVX-512 with BF16. Its includes must define no function that the
// linker could share with code for older processors, and nothing here runs on older processors.
#include "kernels/cpu/bf16_tile.h"

#ifdef __AVX512BF16__
#include <immintrin.h>

#include <utility>

namespace strata::kernels {
namespace {

inline void AddTo(__m512 sum, bool first, float* to) {
  _mm512_storeu_ps(to, first ? sum : _mm512_add_ps(_mm512_loadu_ps(to), sum));
}

// Adds to each f32 of `sums` the products of its pair in `w` with the pair at x. In assembly for
// the reason given in int8_tile_vnni.cpp.
inline void AddProducts(__m512& sums, __m512i w, const uint16_t* x) {
  using Pair = const uint16_t[2];
  __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(*reinterpret_cast<Pair*>(x)));
}

template <size_t... kRow>
void MultiplyRows(const BF16Tile tile, std::index_sequence<kRow...>) {
  __m512 left[] = {(static_cast<void>(kRow), _mm512_setzero_ps())...};
  __m512 right[] = {(static_cast<void>(kRow), _mm512_setzero_ps())...};
  const uint16_t* w = tile.w;
  const std::byte* later = tile.later;
  const uint16_t* x = static_cast<const uint16_t*>(tile.x);
  for (size_t group = 0; group < tile.groups; ++group) {
    const __m512i w_left = _mm512_loadu_si512(w);
    const __m512i w_right = _mm512_loadu_si512(w + 32);
    _mm_prefetch(later, _MM_HINT_T0);
    _mm_prefetch(later + 64, _MM_HINT_T0);
    ((AddProducts(left[kRow], w_left, x + kRow * kBF16Depth),
      AddProducts(right[kRow], w_right, x + kRow * kBF16Depth)),
     ...);
    w += kBF16Columns * kBF16Group;
    later += tile.later_step;
    x += kBF16Group;
  }
  ((AddTo(left[kRow], tile.first, tile.sums + kRow * kBF16Columns),
    AddTo(right[kRow], tile.first, tile.sums + kRow * kBF16Columns + 16)),
   ...);
}

template <size_t kRows>
void MultiplyRows(const BF16Tile& tile) {
  MultiplyRows(tile, std::make_index_sequence<kRows>());
}

template <size_t... kLess>
void MultiplyAny(size_t rows, const BF16Tile& tile, std::index_sequence<kLess...>) {
  using Function = void (*)(const BF16Tile&);
  static constexpr Function kOfRows[] = {MultiplyRows<kLess + 1>...};
  kOfRows[rows - 1](tile);
}

void Multiply(size_t rows, const BF16Tile& tile) {
  MultiplyAny(rows, tile, std::make_index_sequence<kBF16MaxRows>());
}

}  // namespace

BF16Kernel DotBF16Kernel() { return {false, kBF16MaxRows, Multiply}; }

}  // namespace strata::kernels

#else  // another architecture

namespace strata::kernels {

BF16Kernel DotBF16Kernel() { return {}; }

}  // namespace strata::kernels

#endif
