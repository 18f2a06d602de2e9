#include "kernels/cpu/bf16_tile.h"

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/bf16_tile.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

using DU = hn::RebindToUnsigned<hn::RebindToSigned<D>>;

// The bits of x rounded to bf16, the lower half of each zero. A NaN gets a bit that rounding does
// not carry away.
HWY_INLINE hn::Vec<DU> Rounded(V x) {
  const DU d;
  const auto bits = hn::BitCast(d, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1U));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffU)));
  const auto quiet = hn::Or(bits, hn::Set(d, 0x400000U));
  const auto is_number = hn::RebindMask(d, hn::Eq(x, x));
  return hn::And(hn::IfThenElse(is_number, rounded, quiet), hn::Set(d, 0xffff0000U));
}

void RoundTo(const float* x, size_t count, bool widened, void* to) {
  for (size_t i = 0; i < count; i += kLanes) {
    const auto rounded = Rounded(LoadUpTo(x + i, count - i));
    if (widened) {
      StoreUpTo(hn::BitCast(D(), rounded), static_cast<float*>(to) + i, count - i);
      continue;
    }
    HWY_ALIGN uint32_t lanes[kLanes];
    hn::Store(rounded, DU(), lanes);
    for (size_t j = 0; j < std::min(kLanes, count - i); ++j) {
      static_cast<uint16_t*>(to)[i + j] = static_cast<uint16_t>(lanes[j] >> 16);
    }
  }
  if (count % kBF16Group == 0) return;
  if (widened) {
    static_cast<float*>(to)[count] = 0;
  } else {
    static_cast<uint16_t*>(to)[count] = 0;
  }
}

// Adds the products of the odd or of the even input of each pair.
template <bool kOdd, size_t kRows, size_t kVectors>
HWY_INLINE void AddHalf(const float* x, const uint16_t* w, V (&sums)[kRows][kVectors]) {
  AddProducts([&](size_t r) { return hn::Set(D(), x[r * kBF16Depth]); },
              [&](size_t v) { return LoadHalf<kOdd>(w + v * kLanes * kBF16Group); }, sums);
}

// Beside sums a tile keeps in registers two vectors of weights of odd inputs, two of even inputs, a
// mask and an input: AVX2's 16 registers then leave room for 5 rows.
constexpr size_t kBF16Rows = kTileRows == 6 ? 5 : kTileRows;

template <size_t kRows>
HWY_NOINLINE void MultiplyColumns(const BF16Tile& tile) {
  constexpr size_t kVectors = PanelVectors(kRows, kBF16Columns);
  constexpr size_t kStep = kBF16Columns * kBF16Group;
  const D d;
  const size_t later_step = tile.later_step;
  for (size_t column = 0; column < kBF16Columns; column += kVectors * kLanes) {
    V sums[kRows][kVectors];
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(d);
    }
    const auto* x = static_cast<const float*>(tile.x);
    const uint16_t* w = tile.w + column * kBF16Group;
    const std::byte* later = tile.later + column * sizeof(uint32_t);
    Steps<4>(tile.groups, [&] {
      AskFor<kVectors * sizeof(uint32_t)>(later);
      AddHalf<true>(x + 1, w, sums);
      AddHalf<false>(x, w, sums);
      x += kBF16Group;
      w += kStep;
      later += later_step;
    });
    for (size_t r = 0; r < kRows; ++r) {
      for (size_t v = 0; v < kVectors; ++v) {
        float* to = tile.sums + r * kBF16Columns + column + v * kLanes;
        hn::StoreU(tile.first ? sums[r][v] : hn::Add(hn::LoadU(d, to), sums[r][v]), d, to);
      }
    }
  }
}

void MultiplyBF16(size_t rows, const BF16Tile& tile) {
  WithRows(rows, [&](auto count) {
    if constexpr (count() <= kBF16Rows) MultiplyColumns<count()>(tile);
  });
}

BF16Kernel PortableBF16() { return {true, kBF16Rows, MultiplyBF16}; }

BF16Kernel BestBF16() { return kIsAvx512 && HasBF16Dot() ? DotBF16Kernel() : PortableBF16(); }

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(PortableBF16);
HWY_EXPORT(BestBF16);
HWY_EXPORT(RoundTo);

void RoundToBF16(const float* x, size_t count, bool widened, void* to) {
  HWY_DYNAMIC_DISPATCH(RoundTo)(x, count, widened, to);
}

BF16Kernel PortableBF16Kernel() { return HWY_DYNAMIC_DISPATCH(PortableBF16)(); }

BF16Kernel BestBF16Kernel() { return HWY_DYNAMIC_DISPATCH(BestBF16)(); }

namespace {

// Whether DotBF16Kernel gives the bits of PortableBF16Kernel when sums cancel and round.
bool DotSumsInOrder() {
  constexpr size_t kInputs = 64;
  float x[kInputs];
  float widened[kBF16Depth] = {};
  uint16_t pairs[kBF16Depth] = {};
  uint16_t w[kInputs * kBF16Columns];
  float expected[kBF16Columns];
  float found[kBF16Columns];
  uint32_t state = 1;
  const auto draw = [&state] {  // bf16 from 2^-8 to 2^8, so that the order of sums shows
    state = state * 1664525 + 1013904223;
    const uint32_t sign = state & 0x80000000U;
    const uint32_t exponent = 119 + (state >> 27) % 16;
    return sign | exponent << 23 | (state >> 4 & 0x7fU) << 16;
  };
  for (float& value : x) {
    const uint32_t bits = draw();
    std::memcpy(&value, &bits, sizeof(value));
  }
  for (uint16_t& value : w) value = static_cast<uint16_t>(draw() >> 16);
  RoundToBF16(x, kInputs, true, widened);
  RoundToBF16(x, kInputs, false, pairs);
  BF16Tile tile = {.w = w,
                   .later = reinterpret_cast<const std::byte*>(w),
                   .groups = kInputs / kBF16Group,
                   .first = true};
  tile.x = widened;
  tile.sums = expected;
  PortableBF16Kernel().multiply(1, tile);
  tile.x = pairs;
  tile.sums = found;
  DotBF16Kernel().multiply(1, tile);
  return std::memcmp(expected, found, sizeof(found)) == 0;
}

}  // namespace

bool HasBF16Dot() {
#if HWY_ARCH_X86_64
  static const bool has = __builtin_cpu_supports("avx512bf16") && DotSumsInOrder();
  return has;
#else
  return false;
#endif
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
