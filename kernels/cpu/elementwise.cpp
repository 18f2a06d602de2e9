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

void RmsNorm(ConstRows x, const float* weight, float epsilon, Rows out, int64_t begin,
             int64_t end) {
  const auto columns = static_cast<size_t>(x.num_cols);
  for (int64_t row = begin; row < end; ++row) {
    const float* from = x.data + row * x.stride;
    float* to = out.data + row * out.stride;
    const float mean = SumOfSquares(from, columns) / static_cast<float>(columns);
    const V scale = hn::Set(D(), 1.0f / std::sqrt(mean + epsilon));
    for (size_t j = 0; j < columns; j += kLanes) {
      const V scaled = hn::Mul(LoadUpTo(from + j, columns - j), scale);
      StoreUpTo(hn::Mul(scaled, LoadUpTo(weight + j, columns - j)), to + j, columns - j);
    }
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

void Mix(Rows v, ConstRows first_values, float own, float first, int64_t begin, int64_t end) {
  const auto columns = static_cast<size_t>(v.num_cols);
  for (int64_t row = begin; row < end; ++row) {
    float* to = v.data + row * v.stride;
    const float* from = first_values.data + row * first_values.stride;
    for (size_t j = 0; j < columns; j += kLanes) {
      const V firsts = hn::Mul(hn::Set(D(), first), LoadUpTo(from + j, columns - j));
      const V mixed = Fma(hn::Set(D(), own), LoadUpTo(to + j, columns - j), firsts);
      StoreUpTo(mixed, to + j, columns - j);
    }
  }
}

void SwiGlu(ConstRows gate_up, Rows out, int64_t begin, int64_t end) {
  const auto columns = static_cast<size_t>(out.num_cols);
  const V one = hn::Set(D(), 1.0f);
  for (int64_t row = begin; row < end; ++row) {
    const float* gates = gate_up.data + row * gate_up.stride;
    const float* ups = gates + columns;
    float* to = out.data + row * out.stride;
    for (size_t j = 0; j < columns; j += kLanes) {
      const V gate = LoadUpTo(gates + j, columns - j);
      const V silu = hn::Div(gate, hn::Add(one, Exp(hn::Neg(gate))));
      StoreUpTo(hn::Mul(silu, LoadUpTo(ups + j, columns - j)), to + j, columns - j);
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(RmsNorm);
HWY_EXPORT(Rope);
HWY_EXPORT(Mix);
HWY_EXPORT(SwiGlu);

void RmsNormRows(ConstRows x, const float* weight, float epsilon, Rows out, int64_t begin,
                 int64_t end) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, epsilon, out, begin, end);
}

void RopeRows(Rows x, int32_t head_dim, std::span<const int32_t> positions, const float* table,
              int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(Rope)(x, head_dim, positions, table, begin, end);
}

void MixRows(Rows v, ConstRows first_values, float own, float first, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(Mix)(v, first_values, own, first, begin, end);
}

void SwiGluRows(ConstRows gate_up, Rows out, int64_t begin, int64_t end) {
  HWY_DYNAMIC_DISPATCH(SwiGlu)(gate_up, out, begin, end);
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
