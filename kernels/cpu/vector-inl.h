// The vector type of the SIMD files and the few operations they need beside Highway's. Included
// once for every instruction set.

#if defined(STRATA_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_KERNELS_CPU_VECTOR_INL_H_
#undef STRATA_KERNELS_CPU_VECTOR_INL_H_
#else
#define STRATA_KERNELS_CPU_VECTOR_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/cache_control.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Sums over columns or positions run in this many lanes, lane j taking every 16th element from j
// on, whatever the vector width; a vector is 16 lanes or a part of them.
constexpr size_t kFixedLanes = 16;

using D = hn::CappedTag<float, kFixedLanes>;
using V = hn::Vec<D>;
constexpr size_t kLanes = hn::MaxLanes(D());
static_assert(kFixedLanes % kLanes == 0);

// Whether code for AVX-512 may run here; instructions that Highway lacks are in files of their own.
constexpr bool kIsAvx512 = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL;

constexpr size_t RoundUp(size_t n, size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// a * b + c, rounded once.
HWY_INLINE V Fma(V a, V b, V c) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  const D d;
  HWY_ALIGN float x[kLanes];
  HWY_ALIGN float y[kLanes];
  HWY_ALIGN float z[kLanes];
  hn::Store(a, d, x);
  hn::Store(b, d, y);
  hn::Store(c, d, z);
  for (size_t i = 0; i < kLanes; ++i) z[i] = std::fma(x[i], y[i], z[i]);
  return hn::Load(d, z);
#else
  return hn::MulAdd(a, b, c);
#endif
}

// kLanes stored elements as f32: bf16 and int8 widen exactly.
HWY_INLINE V LoadWide(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE V LoadWide(const uint16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::Rebind<uint32_t, D> d32;
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}
HWY_INLINE V LoadWide(const int8_t* from) {
  const hn::Rebind<int8_t, D> d8;
  const hn::Rebind<int32_t, D> d32;
  return hn::ConvertTo(D(), hn::PromoteTo(d32, hn::LoadU(d8, from)));
}

// The even or the odd elements of 2 * kLanes bf16 as f32. Exact, and cheaper than widening them in
// order, which moves them across lanes.
template <bool kOdd>
HWY_INLINE V LoadHalf(const uint16_t* from) {
  const hn::RebindToUnsigned<hn::RebindToSigned<D>> bits;
  const auto pairs = hn::LoadU(bits, reinterpret_cast<const uint32_t*>(from));
  return hn::BitCast(D(),
                     kOdd ? hn::And(pairs, hn::Set(bits, 0xffff0000U)) : hn::ShiftLeft<16>(pairs));
}

// The last `count` elements of a row of f32, so that a remainder goes through the same
// instructions as the rest: lanes from `count` on are zero, and are not stored.
HWY_INLINE V LoadUpTo(const float* from, size_t count) {
  if (HWY_LIKELY(count >= kLanes)) return hn::LoadU(D(), from);
  HWY_ALIGN float lanes[kLanes] = {};
  std::memcpy(lanes, from, count * sizeof(float));
  return hn::Load(D(), lanes);
}
HWY_INLINE void StoreUpTo(V v, float* to, size_t count) {
  if (HWY_LIKELY(count >= kLanes)) return hn::StoreU(v, D(), to);
  HWY_ALIGN float lanes[kLanes];
  hn::Store(v, D(), lanes);
  std::memcpy(to, lanes, count * sizeof(float));
}

// e^x within 2 units in the last place: 0 below the smallest normal result, at most e^88.37. NaN
// stays NaN. Only operations that every instruction set rounds alike.
HWY_INLINE V Exp(V x) {
  const D d;
  const hn::RebindToSigned<D> di;
  const V low = hn::Set(d, -87.3365478515625f);
  const V clamped = hn::Min(hn::Max(x, low), hn::Set(d, 88.3762626647949f));
  // n = round(x / ln 2): after adding 1.5 * 2^23 the integer stands in the low bits.
  const V magic = hn::Set(d, 12582912.0f);
  const V shifted = Fma(clamped, hn::Set(d, 1.44269504088896341f), magic);
  const V n = hn::Sub(shifted, magic);
  // r = x - n ln 2 in two parts, |r| <= 0.35.
  V r = Fma(n, hn::Set(d, -0.693145751953125f), clamped);
  r = Fma(n, hn::Set(d, -1.428606765330187045e-6f), r);
  V p = hn::Set(d, 0.000198527617612853646278381f);
  p = Fma(p, r, hn::Set(d, 0.00139304355252534151077271f));
  p = Fma(p, r, hn::Set(d, 0.00833336077630519866943359f));
  p = Fma(p, r, hn::Set(d, 0.0416664853692054748535156f));
  p = Fma(p, r, hn::Set(d, 0.166666671633720397949219f));
  p = Fma(p, r, hn::Set(d, 0.5f));
  p = Fma(p, hn::Mul(r, r), hn::Add(r, hn::Set(d, 1.0f)));
  // The bits of 1.5 * 2^23 leave the word when shifted; 2^n remains to be biased.
  const auto power =
      hn::Add(hn::ShiftLeft<23>(hn::BitCast(di, shifted)), hn::Set(di, int32_t{127} << 23));
  const V y = hn::Mul(p, hn::BitCast(d, power));
  return hn::IfThenElse(hn::Eq(x, x), hn::IfThenZeroElse(hn::Lt(x, low), y), x);
}

// The sum of 16 lanes as a fixed tree: 8 apart, 4 apart, 2 apart, neighbours. Overwrites them.
HWY_INLINE float SumFixedLanes(float* lanes) {
  for (size_t apart = kFixedLanes / 2; apart > 0; apart /= 2) {
    for (size_t i = 0; i < apart; ++i) lanes[i] += lanes[i + apart];
  }
  return lanes[0];
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
