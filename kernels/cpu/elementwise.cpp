#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

// The sum of x[j]^2: fixed lane i takes the columns j with j mod 16 = i.
float SumOfSquares(const float* x, size_t columns) {
  constexpr size_t kVectors = kFixedLanes / kLanes;
  V sums[kVectors];
  for (V& sum : sums) sum = hn::Zero(D());
  for (size_t j = 0; j < columns; j += kFixedLanes) {
    for (size_t v = 0; v < kVectors && j + v * kLanes < columns; ++v) {
      const size_t column = j + v * kLanes;
      const V value = LoadUpTo(x + column, columns - column);
      sums[v] = Fma(value, value, sums[v]);  // lanes past the end add an exact 0
    }
  }
  HWY_ALIGN float lanes[kFixedLanes];
  for (size_t v = 0; v < kVectors; ++v) hn::Store(sums[v], D(), lanes + v * kLanes);
  return SumFixedLanes(lanes);
}

// out may be x.
void NormRowOf(const float* x, size_t columns, const RmsNorm& norm, float* out) {
  const float mean = SumOfSquares(x, columns) / static_cast<float>(columns);
  const V scale = hn::Set(D(), 1.0f / std::sqrt(mean + norm.epsilon));
  for (size_t j = 0; j < columns; j += kLanes) {
    const V scaled = hn::Mul(LoadUpTo(x + j, columns - j), scale);
    StoreUpTo(hn::Mul(scaled, LoadUpTo(norm.weight + j, columns - j)), out + j, columns - j);
  }
}

void NormOneRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out) {
  NormRowOf(x.data + row * x.stride, static_cast<size_t>(x.num_cols), norm, out);
}

void Add(const float* bias, size_t columns, float* x) {
  for (size_t j = 0; j < columns; j += kLanes) {
    const V sum = hn::Add(LoadUpTo(x + j, columns - j), LoadUpTo(bias + j, columns - j));
    StoreUpTo(sum, x + j, columns - j);
  }
}

// angles: cos[half], then sin[half]
void Rotate(const float* angles, size_t half, float* x) {
  const float* const sines = angles + half;
  for (size_t j = 0; j < half; j += kLanes) {
    const size_t count = half - j;
    const V cosine = LoadUpTo(angles + j, count);
    const V sine = LoadUpTo(sines + j, count);
    const V low = LoadUpTo(x + j, count);
    const V high = LoadUpTo(x + half + j, count);
    StoreUpTo(Fma(hn::Neg(high), sine, hn::Mul(low, cosine)), x + j, count);
    StoreUpTo(Fma(low, sine, hn::Mul(high, cosine)), x + half + j, count);
  }
}

void Mix(const HeadWay& way, const float* first_values, size_t columns, float* x) {
  for (size_t j = 0; j < columns; j += kLanes) {
    const V firsts = hn::Mul(hn::Set(D(), way.first), LoadUpTo(first_values + j, columns - j));
    const V mixed = Fma(hn::Set(D(), way.own), LoadUpTo(x + j, columns - j), firsts);
    StoreUpTo(mixed, x + j, columns - j);
  }
}

void RunSteps(const HeadWay& way, std::span<const int32_t> positions, int64_t begin, int64_t end) {
  const auto columns = static_cast<size_t>(way.head_dim);
  for (int64_t row = begin; row < end; ++row) {
    float* const x = way.data + row * way.stride;
    if (way.bias != nullptr) Add(way.bias, columns, x);
    if (way.norm.weight != nullptr) NormRowOf(x, columns, way.norm, x);
    if (way.rotated > 0) {
      const int64_t position = positions[static_cast<size_t>(row)];
      Rotate(way.rope_table + position * way.rotated, static_cast<size_t>(way.rotated / 2), x);
    }
    if (way.first_values != nullptr) {
      Mix(way, way.first_values + row * way.first_stride, columns, x);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(NormOneRow);
HWY_EXPORT(RunSteps);

void NormRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out) {
  HWY_DYNAMIC_DISPATCH(NormOneRow)(x, norm, row, out);
}

void RunWay(const HeadWay& way, std::span<const int32_t> positions, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(RunSteps)(way, positions, begin, end);
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
