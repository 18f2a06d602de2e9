// The one inner loop of matrix products and of attention. Included once for every instruction set.

#if defined(STRATA_KERNELS_CPU_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_KERNELS_CPU_TILE_INL_H_
#undef STRATA_KERNELS_CPU_TILE_INL_H_
#else
#define STRATA_KERNELS_CPU_TILE_INL_H_
#endif

#include <type_traits>

#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

// Floats from one row of a tile's left side to the next, and so the longest chain it can hold.
constexpr size_t kTileDepth = 256;

constexpr size_t kCacheLine = 64;  // bytes

// Vector registers for sums (two or more stay free for the operands), and rows of the tallest tile
// that then has two vectors a row.
#if HWY_TARGET == HWY_AVX2
constexpr size_t kSumVectors = 12;
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
constexpr size_t kSumVectors = 8;
#else
constexpr size_t kSumVectors = 24;
#endif
constexpr size_t kTileRows = kSumVectors / 2;

// Vectors of a weight panel that a tile of `rows` rows sums at once: all of them if there are
// registers enough, because the tile then reads the panel in the order of memory; else 2.
constexpr size_t PanelVectors(size_t rows, size_t columns) {
  const size_t all = columns / kLanes;
  return (rows + 1) * all <= kSumVectors ? all : 2;
}

// The right side, [k, columns] in storage: row k is in piece k / piece_rows, `stride` elements
// after the row before it. The pointer after the last piece is to the memory read next.
template <class T>
struct TileRight {
  const T* const* pieces;
  size_t piece_rows;
  size_t stride;
};

// Lines of memory to prefetch, one at a time, while something else is computed.
class ReadAhead {
 public:
  ReadAhead() = default;
  ReadAhead(const void* begin, size_t bytes)
      : next_(static_cast<const std::byte*>(begin)), end_(next_ + bytes) {}

  // Whether there was a line left.
  HWY_INLINE bool Ask() {
    if (next_ >= end_) return false;
    hwy::Prefetch(next_);
    next_ += kCacheLine;
    return true;
  }

 private:
  const std::byte* next_ = nullptr;
  const std::byte* end_ = nullptr;
};

// Start of a chain of fused multiply-adds, and place of its end.
enum class Chain {
  kStart,     // c = chain from 0
  kContinue,  // c = chain from c
  kAddBlock,  // c = c + (chain from 0)
};

// Whether a tile of `rows` rows waits for memory more than for its multiply-adds.
constexpr bool WaitsForMemory(size_t rows) { return rows * 4 <= kSumVectors; }

// Calls step() `count` times, kRound of them to a round: counting each call would be a tenth of a
// tile's instructions, and a core that serves two threads has none to spare. With too many calls to
// a round GCC 12 runs out of registers, and a chain through memory costs more than the rounds save.
template <size_t kRound, class Step>
HWY_INLINE void Steps(size_t count, Step step) {
  for (; count >= kRound; count -= kRound) {
#pragma GCC unroll 4
    for (size_t i = 0; i < kRound; ++i) step();
  }
  for (; count > 0; --count) step();
}

// Prefetches the memory that is read one piece later. A processor looks ahead by itself only inside
// a page, and a piece is about a page.
template <size_t kVectors, class T>
HWY_INLINE void AskFor(const T* later) {
  constexpr size_t kStep = kCacheLine / sizeof(T);
  for (size_t i = 0; i < kVectors * kLanes; i += kStep) hwy::Prefetch(later + i);
}

// sums[r][v] = fma(left(r), right(v), sums[r][v]). The fewer operands, left or right, stay in
// registers: beside the sums, AVX2 has four.
template <size_t kRows, size_t kVectors, class Left, class Right>
HWY_INLINE void AddProducts(Left left, Right right, V (&sums)[kRows][kVectors]) {
  if constexpr (kRows < kVectors) {
    V rows[kRows];
    for (size_t r = 0; r < kRows; ++r) rows[r] = left(r);
    for (size_t v = 0; v < kVectors; ++v) {
      const V column = right(v);
      for (size_t r = 0; r < kRows; ++r) sums[r][v] = Fma(rows[r], column, sums[r][v]);
    }
  } else {
    V columns[kVectors];
    for (size_t v = 0; v < kVectors; ++v) columns[v] = right(v);
    for (size_t r = 0; r < kRows; ++r) {
      const V row = left(r);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Fma(row, columns[v], sums[r][v]);
    }
  }
}

// Whether neighbouring vectors of T are summed in pairs, the even elements of both in one register
// and the odd ones in the other.
template <class T>
constexpr bool kInPairs = kLanes > 1 && std::is_same_v<T, uint16_t>;

// Vector v of the columns from `from` on, widened; if kPairs, the even or odd elements of v's pair.
template <bool kPairs, class T>
HWY_INLINE V LoadColumn(const T* from, size_t v) {
  if constexpr (kPairs) {
    const T* const pair = from + v / 2 * 2 * kLanes;
    return v % 2 == 0 ? LoadHalf<false>(pair) : LoadHalf<true>(pair);
  } else {
    return LoadWide(from + v * kLanes);
  }
}

// Loads sums from memory into registers, and stores them in the order of memory.
template <bool kPairs, size_t kVectors>
HWY_INLINE void LoadVectors(const float* from, V (&sums)[kVectors]) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kPairs) {
    for (size_t v = 0; v < kVectors; v += 2) {
      hn::LoadInterleaved2(D(), from + v * kLanes, sums[v], sums[v + 1]);
    }
    return;
  }
#endif
  for (size_t v = 0; v < kVectors; ++v) sums[v] = hn::LoadU(D(), from + v * kLanes);
}
template <bool kPairs, size_t kVectors>
HWY_INLINE void StoreVectors(const V (&sums)[kVectors], float* to) {
#if HWY_TARGET != HWY_SCALAR
  if constexpr (kPairs) {
    for (size_t v = 0; v < kVectors; v += 2) {
      hn::StoreInterleaved2(sums[v], sums[v + 1], D(), to + v * kLanes);
    }
    return;
  }
#endif
  for (size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[v], D(), to + v * kLanes);
}

// One chain over k in [k_begin, k_end), ascending, for each of kRows x (kVectors * kLanes)
// elements.
template <size_t kRows, size_t kVectors, class T>
HWY_INLINE void TileColumns(const float* HWY_RESTRICT a, const TileRight<T>& b, size_t column,
                            size_t k_begin, size_t k_end, Chain chain, float* HWY_RESTRICT c,
                            size_t c_stride) {
  const D d;
  constexpr bool kPairs = kInPairs<T> && kVectors % 2 == 0;
  constexpr size_t kRound = std::is_same_v<T, float> ? 3 : 1;
  V sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (V& sum : sums[r]) sum = hn::Zero(d);
    if (chain == Chain::kContinue) LoadVectors<kPairs>(c + r * c_stride, sums[r]);
  }
  size_t piece = k_begin / b.piece_rows;
  size_t row = k_begin % b.piece_rows;
  for (size_t k = k_begin; k < k_end; ++piece, row = 0) {
    const T* HWY_RESTRICT right = b.pieces[piece] + row * b.stride + column;
    const T* later = b.pieces[piece + 1] + row * b.stride + column;
    const size_t count = std::min(k_end - k, b.piece_rows - row);
    const float* HWY_RESTRICT left = a + k;
    Steps<kRound>(count, [&] {
      if constexpr (WaitsForMemory(kRows)) AskFor<kVectors>(later);
      AddProducts([&](size_t r) { return hn::Set(d, left[r * kTileDepth]); },
                  [&](size_t v) { return LoadColumn<kPairs>(right, v); }, sums);
      ++left;
      right += b.stride;
      later += b.stride;
    });
    k += count;
  }
  for (size_t r = 0; r < kRows; ++r) {
    float* const to = c + r * c_stride;
    if (chain == Chain::kAddBlock) {
      V before[kVectors];
      LoadVectors<kPairs>(to, before);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Add(before[v], sums[r][v]);
    }
    StoreVectors<kPairs>(sums[r], to);
  }
}

template <size_t kRows, class T>
HWY_NOINLINE void TileOfRows(const float* a, const TileRight<T>& b, size_t columns, size_t k_begin,
                             size_t k_end, Chain chain, float* c, size_t c_stride) {
  size_t j = 0;
  if constexpr (kRows * 4 <= kSumVectors) {
    for (; j + 4 * kLanes <= columns; j += 4 * kLanes) {
      TileColumns<kRows, 4>(a, b, j, k_begin, k_end, chain, c + j, c_stride);
    }
  }
  for (; j + 2 * kLanes <= columns; j += 2 * kLanes) {
    TileColumns<kRows, 2>(a, b, j, k_begin, k_end, chain, c + j, c_stride);
  }
  for (; j < columns; j += kLanes) {
    TileColumns<kRows, 1>(a, b, j, k_begin, k_end, chain, c + j, c_stride);
  }
}

// Calls body(std::integral_constant<size_t, rows>()) for 1 <= rows <= kTileRows.
template <class Body>
HWY_INLINE void WithRows(size_t rows, Body body) {
  switch (rows) {
#define STRATA_ROWS(kRows)                                  \
  case kRows:                                               \
    if constexpr (kRows <= kTileRows) {                     \
      return body(std::integral_constant<size_t, kRows>()); \
    }                                                       \
    break;
    STRATA_ROWS(1)
    STRATA_ROWS(2)
    STRATA_ROWS(3)
    STRATA_ROWS(4)
    STRATA_ROWS(5)
    STRATA_ROWS(6)
    STRATA_ROWS(7)
    STRATA_ROWS(8)
    STRATA_ROWS(9)
    STRATA_ROWS(10)
    STRATA_ROWS(11)
    STRATA_ROWS(12)
#undef STRATA_ROWS
  }
}

// c[r, j] (see Chain) sum_k a[r, k] * b[k, j] for `rows` <= kTileRows rows, `columns` (a multiple
// of kLanes) columns and k in [k_begin, k_end), k_end <= kTileDepth. a: rows kTileDepth floats
// apart.
template <class T>
HWY_INLINE void Tile(size_t rows, const float* a, const TileRight<T>& b, size_t columns,
                     size_t k_begin, size_t k_end, Chain chain, float* c, size_t c_stride) {
  WithRows(rows, [&](auto count) {
    TileOfRows<count()>(a, b, columns, k_begin, k_end, chain, c, c_stride);
  });
}

// The same with Chain::kStart over k in [0, depth), for kVectors vectors of columns at any places:
// vector v of row k is at columns[v] + k * stride. If kPairs, every other vector follows the one
// before it. c: vectors side by side, rows kTileDepth apart. `columns` has kVectors more, to
// prefetch.
template <size_t kRows, size_t kVectors, bool kPairs, class T>
HWY_INLINE void TileVectors(const float* HWY_RESTRICT a, const T* const* columns, size_t stride,
                            size_t depth, float* HWY_RESTRICT c) {
  constexpr size_t kSide = kPairs ? 2 : 1;  // vectors that stand side by side
  const D d;
  V sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (V& sum : sums[r]) sum = hn::Zero(d);
  }
  const T* HWY_RESTRICT right[kVectors / kSide];
  const T* later[kVectors / kSide];
  for (size_t v = 0; v < kVectors; v += kSide) {
    right[v / kSide] = columns[v];
    later[v / kSide] = columns[v + kVectors];
  }
  for (size_t k = 0; k < depth; ++k) {
    if constexpr (WaitsForMemory(kRows)) {
      for (const T* place : later) AskFor<kSide>(place + k * stride);
    }
    AddProducts(
        [&](size_t r) { return hn::Set(d, a[r * kTileDepth + k]); },
        [&](size_t v) { return LoadColumn<kPairs>(right[v / kSide] + k * stride, v % kSide); },
        sums);
  }
  for (size_t r = 0; r < kRows; ++r) StoreVectors<kPairs>(sums[r], c + r * kTileDepth);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
