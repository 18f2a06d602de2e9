// The only file compiled for AVX-512 with VNNI. Its includes must define no function that the
// linker could share with code for older processors, and nothing here runs on older processors.
#include "kernels/cpu/int8_tile.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>

#include <utility>

namespace strata::kernels {
namespace {

// Scales 16 sums of a row: to = fma(sum, scale, `first` ? 0 : to).
inline void AddScaled(__m512i sum, float scale, bool first, float* to) {
  const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(to);
  // The masked form: GCC 12 warns of an undefined operand inside the form without a mask.
  const __m512 floats = _mm512_maskz_cvtepi32_ps(0xffff, sum);
  _mm512_storeu_ps(to, _mm512_fmadd_ps(floats, _mm512_set1_ps(scale), before));
}

// Adds to each i32 of `sums` four products of its bytes of `w` with those of `x`. In assembly
// because GCC 12 copies the sums around its intrinsic, and then has too few registers.
inline void AddProducts(__m512i& sums, __m512i w, __m512i x) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(w), "v"(x));
}

// Loads four inputs of a row once for both halves of a panel: the tile would else wait for loads,
// not products.
inline void AddProducts(__m512i& left, __m512i& right, __m512i w_left, __m512i w_right,
                        const int8_t* x) {
  int32_t quad = 0;
  __builtin_memcpy(&quad, x, sizeof(quad));
  const __m512i inputs = _mm512_set1_epi32(quad);
  AddProducts(left, w_left, inputs);
  AddProducts(right, w_right, inputs);
}

// vpdpbusd multiplies unsigned by signed bytes and adds four products to each i32. Rows are spelled
// out, not looped over: GCC keeps an array in registers only if every index is a constant from the
// start.
template <size_t... kRow>
void MultiplyRows(const Int8Tile tile, std::index_sequence<kRow...>) {
  __m512i left[] = {_mm512_set1_epi32(tile.starts[kRow])...};
  __m512i right[] = {_mm512_set1_epi32(tile.starts[kRow])...};
  const uint8_t* w = tile.w;
  const std::byte* later = tile.later;
  const auto* x = static_cast<const int8_t*>(tile.x);
  for (size_t group = 0; group < tile.groups; ++group) {
    const __m512i w_left = _mm512_loadu_si512(w);
    const __m512i w_right = _mm512_loadu_si512(w + 64);
    (AddProducts(left[kRow], right[kRow], w_left, w_right, x + kRow * kInt8Depth), ...);
    _mm_prefetch(later, _MM_HINT_T0);
    _mm_prefetch(later + 64, _MM_HINT_T0);
    later += tile.later_step;
    w += kInt8Columns * kInt8Group;
    x += kInt8Group;
  }
  ((AddScaled(left[kRow], tile.scales[kRow], tile.first, tile.sums + kRow * kInt8Columns),
    AddScaled(right[kRow], tile.scales[kRow], tile.first, tile.sums + kRow * kInt8Columns + 16)),
   ...);
}

template <size_t kRows>
void MultiplyRows(const Int8Tile& tile) {
  MultiplyRows(tile, std::make_index_sequence<kRows>());
}

template <size_t... kLess>
void MultiplyAny(size_t rows, const Int8Tile& tile, std::index_sequence<kLess...>) {
  using Function = void (*)(const Int8Tile&);
  static constexpr Function kOfRows[] = {MultiplyRows<kLess + 1>...};
  kOfRows[rows - 1](tile);
}

void Multiply(size_t rows, const Int8Tile& tile) {
  MultiplyAny(rows, tile, std::make_index_sequence<kInt8MaxRows>());
}

}  // namespace

Int8Kernel VnniInt8Kernel() { return {false, kInt8MaxRows, Multiply}; }

}  // namespace strata::kernels

#else  // another architecture

namespace strata::kernels {

Int8Kernel VnniInt8Kernel() { return {}; }

}  // namespace strata::kernels

#endif
