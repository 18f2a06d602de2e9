#include "kernels/cpu/quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quantise.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/vector-inl.h"

#ifndef STRATA_KERNELS_CPU_QUANTISE_CPP_
#define STRATA_KERNELS_CPU_QUANTISE_CPP_
namespace strata::kernels {

// Magnitudes compare as the integers that their bits are, infinity and then NaN above all others.
constexpr int32_t kMagnitude = 0x7fffffff;
// A number of at most 2^22 added to this is rounded to nearest even, and is in the low bits.
constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kMost = 127.0f;

}  // namespace strata::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

// The largest |x|; infinity or NaN if one of them is.
float LargestMagnitude(const float* x, size_t count) {
  const hn::RebindToSigned<D> di;
  auto largest = hn::Zero(di);
  for (size_t j = 0; j < count; j += kLanes) {
    const auto bits = hn::BitCast(di, LoadUpTo(x + j, count - j));
    largest = hn::Max(largest, hn::And(bits, hn::Set(di, kMagnitude)));
  }
  HWY_ALIGN int32_t lanes[kLanes];
  hn::Store(largest, di, lanes);
  return std::bit_cast<float>(*std::max_element(lanes, lanes + kLanes));
}

using DI = hn::RebindToSigned<D>;

// Stores values [place, place + kLanes) of a row as QuantiseInputs says. Tag: DI.
template <class Tag>
HWY_INLINE void StoreValues(Tag, hn::Vec<Tag> q, bool widened, size_t place, void* values) {
  if (!widened) {
    const hn::Rebind<int8_t, Tag> d8;
    return hn::StoreU(hn::DemoteTo(d8, q), d8, static_cast<int8_t*>(values) + place);
  }
  auto* const to = static_cast<int16_t*>(values);
  if constexpr (hn::MaxLanes(Tag()) >= 2 * kInt8Group) {
    const hn::Rebind<int16_t, Tag> d16;
    const hn::Repartition<uint8_t, decltype(d16)> bytes;
    alignas(16) static constexpr uint8_t kOrder[] = {0, 1, 4,  5,  2,  3,  6,  7,
                                                     8, 9, 12, 13, 10, 11, 14, 15};
    const auto ordered = hn::TableLookupBytes(hn::BitCast(bytes, hn::DemoteTo(d16, q)),
                                              hn::LoadDup128(bytes, kOrder));
    hn::StoreU(hn::BitCast(d16, ordered), d16, to + place);
  } else {
    HWY_ALIGN int32_t lanes[kLanes];
    hn::Store(q, Tag(), lanes);
    for (size_t i = place; i < place + kLanes; ++i) {
      constexpr size_t kOrder[] = {0, 2, 1, 3};
      to[i / kInt8Group * kInt8Group + kOrder[i % kInt8Group]] =
          static_cast<int16_t>(lanes[i - place]);
    }
  }
}

float QuantiseBlock(const float* x, size_t count, bool widened, void* values, int32_t* start) {
  const D d;
  const DI di;
  const float max = LargestMagnitude(x, count);
  *start = 0;
  if (!std::isfinite(max) || max < 0x1p-100f) {  // beyond that 127 / max would not be finite
    std::memset(values, 0, RoundUp(count, kInt8Group) * (widened ? sizeof(int16_t) : 1));
    return std::isfinite(max) ? 0.0f : kNaN;
  }
  const V inverse = hn::Set(d, kMost / max);
  const V magic = hn::Set(d, kMagic);
  auto sums = hn::Zero(di);
  for (size_t j = 0; j < RoundUp(count, kInt8Group); j += kLanes) {
    const V shifted = Fma(LoadUpTo(x + j, j < count ? count - j : 0), inverse, magic);
    const auto q = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, magic));
    sums = hn::Add(sums, q);
    StoreValues(di, q, widened, j, values);
  }
  HWY_ALIGN int32_t lanes[kLanes];
  hn::Store(sums, di, lanes);
  for (const int32_t lane : lanes) *start -= kInt8Offset * lane;
  return max / kMost;
}

float QuantiseWeights(const float* w, size_t num_inputs, uint8_t* to) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> d8;
  const float scale = LargestMagnitude(w, num_inputs) / kMost;
  const size_t padded = RoundUp(num_inputs, kInt8Group);
  const V step = hn::Set(d, scale);
  const V magic = hn::Set(d, kMagic);
  const bool zeros = !(scale > 0.0f) || !std::isfinite(scale);
  for (size_t k = 0; k < padded; k += kFixedLanes) {
    HWY_ALIGN uint8_t bytes[kFixedLanes];
    for (size_t j = 0; j < kFixedLanes; j += kLanes) {
      const size_t column = std::min(k + j, padded);
      V steps = hn::Zero(d);
      // A scale among the subnormal numbers is coarse: the quotient may be above 127.
      if (!zeros) steps = hn::Div(LoadUpTo(w + column, padded - column), step);
      steps = hn::Min(hn::Max(steps, hn::Set(d, -kMost)), hn::Set(d, kMost));
      const auto q = hn::Sub(hn::BitCast(di, hn::Add(steps, magic)), hn::BitCast(di, magic));
      hn::StoreU(hn::DemoteTo(d8, hn::Add(q, hn::Set(di, kInt8Offset))), d8, bytes + j);
    }
    for (size_t g = k; g < std::min(k + kFixedLanes, padded); g += kInt8Group) {
      std::memcpy(to + g * kInt8Columns, bytes + (g - k), kInt8Group);
    }
  }
  return std::isfinite(scale) ? scale : kNaN;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(QuantiseBlock);
HWY_EXPORT(QuantiseWeights);

float QuantiseInputs(const float* x, size_t count, bool widened, void* values, int32_t* start) {
  return HWY_DYNAMIC_DISPATCH(QuantiseBlock)(x, count, widened, values, start);
}

float QuantiseOutput(const float* w, size_t num_inputs, uint8_t* to) {
  return HWY_DYNAMIC_DISPATCH(QuantiseWeights)(w, num_inputs, to);
}

namespace {

size_t ValueBytes(bool widened) { return widened ? sizeof(int16_t) : sizeof(int8_t); }

size_t Blocks(int64_t num_rows, int64_t num_cols) {
  const auto inputs = static_cast<size_t>(num_cols);
  return static_cast<size_t>(num_rows) * ((inputs + kInt8Depth - 1) / kInt8Depth);
}

}  // namespace

size_t QuantisedRows::Floats(int64_t num_rows, int64_t num_cols, bool widened) {
  return Blocks(num_rows, num_cols) * (kInt8Depth * ValueBytes(widened) / sizeof(float) + 2);
}

QuantisedRows QuantisedRows::In(float* memory, int64_t num_rows, int64_t num_cols, bool widened) {
  const size_t blocks = Blocks(num_rows, num_cols);
  float* scales = memory + blocks * (kInt8Depth * ValueBytes(widened) / sizeof(float));
  return {.values = reinterpret_cast<std::byte*>(memory),
          .value_bytes = ValueBytes(widened),
          .starts = reinterpret_cast<int32_t*>(scales + blocks),
          .scales = scales,
          .num_rows = num_rows};
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
