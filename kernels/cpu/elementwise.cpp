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

void NormOneRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out) {
  const auto columns = static_cast<size_t>(x.num_cols);
  const float* from = x.data + row * x.stride;
  const float mean = SumOfSquares(from, columns) / static_cast<float>(columns);
  const V scale = hn::Set(D(), 1.0f / std::sqrt(mean + norm.epsilon));
  for (size_t j = 0; j < columns; j += kLanes) {
    const V scaled = hn::Mul(LoadUpTo(from + j, columns - j), scale);
    StoreUpTo(hn::Mul(scaled, LoadUpTo(norm.weight + j, columns - j)), out + j, columns - j);
  }
}

void Rope(Rows x, int32_t head_dim, std::span<const int32_t> positions, const float* table,
          int64_t begin, int64_t end) {
  const auto half = static_cast<size_t>(head_dim / 2);
  for (int64_t row = begin; row < end; ++row) {
    const float* cosines = table + int64_t{positions[static_cast<size_t>(row)]} * head_dim;
    const float* sines = cosines + half;
    float* head = x.data + row * x.stride;
    for (int64_t column = 0; column < x.num_cols; column += head_dim, head += head_dim) {
      for (size_t j = 0; j < half; j += kLanes) {
        const size_t count = half - j;
        const V cosine = LoadUpTo(cosines + j, count);
        const V sine = LoadUpTo(sines + j, count);
        const V low = LoadUpTo(head + j, count);
        const V high = LoadUpTo(head + half + j, count);
        StoreUpTo(Fma(hn::Neg(high), sine, hn::Mul(low, cosine)), head + j, count);
        StoreUpTo(Fma(low, sine, hn::Mul(high, cosine)), head + half + j, count);
      }
    }
  }
}

void Mix(const ValueMix& mix, int64_t begin, int64_t end) {
  const auto columns = static_cast<size_t>(mix.values.num_cols);
  for (int64_t row = begin; row < end; ++row) {
    float* to = mix.values.data + row * mix.values.stride;
    const float* from = mix.first_values.data + row * mix.first_values.stride;
    for (size_t j = 0; j < columns; j += kLanes) {
      const V firsts = hn::Mul(hn::Set(D(), mix.first), LoadUpTo(from + j, columns - j));
      const V mixed = Fma(hn::Set(D(), mix.own), LoadUpTo(to + j, columns - j), firsts);
      StoreUpTo(mixed, to + j, columns - j);
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
HWY_EXPORT(Rope);
HWY_EXPORT(Mix);

void NormRow(ConstRows x, const RmsNorm& norm, int64_t row, float* out) {
  HWY_DYNAMIC_DISPATCH(NormOneRow)(x, norm, row, out);
}

void RopeRows(Rows x, int32_t head_dim, std::span<const int32_t> positions, const float* table,
              int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(Rope)(x, head_dim, positions, table, begin, end);
}

void MixRows(const ValueMix& mix, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(Mix)(mix, begin, end);
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
