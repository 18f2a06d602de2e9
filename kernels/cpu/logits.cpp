#include "kernels/cpu/logits.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/logits.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/vector-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

HWY_INLINE hn::Mask<D> Possible(V logit) {
  return hn::Le(hn::Abs(logit), hn::Set(D(), hwy::HighestValue<float>()));
}
HWY_INLINE V Impossible() { return hn::Set(D(), -std::numeric_limits<float>::infinity()); }

int64_t ArgMax(const float* logits, size_t count) {
  constexpr size_t kChains = 4;  // a maximum waits for the one before
  V highest[kChains];
  for (V& chain : highest) chain = Impossible();
  size_t i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes) {
    for (size_t c = 0; c < kChains; ++c) {
      const V logit = hn::LoadU(D(), logits + i + c * kLanes);
      highest[c] = hn::Max(highest[c], hn::IfThenElse(Possible(logit), logit, Impossible()));
    }
  }
  for (size_t c = 1; c < kChains; ++c) highest[0] = hn::Max(highest[0], highest[c]);
  float top = hn::GetLane(hn::MaxOfLanes(D(), highest[0]));
  for (; i < count; ++i) {
    if (logits[i] > top && logits[i] <= hwy::HighestValue<float>()) top = logits[i];
  }
  if (top < hwy::LowestValue<float>()) return -1;
  const V wanted = hn::Set(D(), top);
  for (i = 0; i + kLanes <= count; i += kLanes) {
    const intptr_t found = hn::FindFirstTrue(D(), hn::Eq(hn::LoadU(D(), logits + i), wanted));
    if (found >= 0) return static_cast<int64_t>(i) + found;
  }
  while (logits[i] != top) ++i;
  return static_cast<int64_t>(i);
}

// exp of the logits' distances from the top, 0 for the impossible.
void ExpOf(const float* logits, size_t count, float top, float* weights) {
  for (size_t i = 0; i < count; i += kLanes) {
    const V logit = LoadUpTo(logits + i, count - i);
    const V weight = Exp(hn::Sub(logit, hn::Set(D(), top)));
    StoreUpTo(hn::IfThenElseZero(Possible(logit), weight), weights + i, count - i);
  }
}

HWY_INLINE void StoreBinsUpTo(hn::Vec<hn::RebindToSigned<D>> bins, uint16_t* to, size_t count) {
  const hn::Rebind<uint16_t, D> d16;
  if (HWY_LIKELY(count >= kLanes)) return hn::StoreU(hn::DemoteTo(d16, bins), d16, to);
  HWY_ALIGN uint16_t lanes[kLanes];
  hn::Store(hn::DemoteTo(d16, bins), d16, lanes);
  std::copy_n(lanes, count, to);
}

void Weigh(const float* logits, size_t count, const LogitWeighing& how, float* weights,
           uint16_t* bins) {
  const D d;
  const hn::RebindToSigned<D> di;
  const double exact =
      std::min(1 / how.temperature, static_cast<double>(hwy::HighestValue<float>()));
  const auto inverse = static_cast<float>(exact);
  const V high = hn::Set(d, inverse);
  const V low = hn::Set(d, static_cast<float>(exact - static_cast<double>(inverse)));
  const V top = hn::Set(d, how.top);
  for (size_t i = 0; i < count; i += kLanes) {
    const V logit = LoadUpTo(logits + i, count - i);
    const V below = hn::Sub(logit, top);
    const V x = hn::Mul(below, high);
    // Rounding errors of the difference, the inverse and the product, relative to the weight.
    const V back = hn::Sub(below, logit);
    const V lost = hn::Sub(hn::Sub(logit, hn::Sub(below, back)), hn::Add(top, back));
    V rest = Fma(below, high, hn::Neg(x));
    rest = Fma(below, low, Fma(lost, high, rest));
    rest = hn::IfThenElseZero(hn::Ge(x, hn::Set(d, -100.0f)), rest);  // below, infinities meet
    const V weight = Exp(x);
    const auto kept = hn::And(Possible(logit), hn::Ge(x, hn::Set(d, how.floor)));
    StoreUpTo(hn::IfThenElseZero(kept, Fma(weight, rest, weight)), weights + i, count - i);
    const V place = hn::Min(hn::Mul(x, hn::Set(d, -kLogitBinsPerNat)),
                            hn::Set(d, static_cast<float>(kNumLogitBins - 1)));
    const auto bin = hn::IfThenElse(hn::RebindMask(di, kept), hn::ConvertTo(di, place),
                                    hn::Set(di, kNumLogitBins));
    StoreBinsUpTo(bin, bins + i, count - i);
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(ArgMax);
HWY_EXPORT(ExpOf);
HWY_EXPORT(Weigh);

int64_t ArgMaxLogit(std::span<const float> logits) {
  return HWY_DYNAMIC_DISPATCH(ArgMax)(logits.data(), logits.size());
}

void WeighLogits(std::span<const float> logits, const LogitWeighing& how, std::span<float> weights,
                 std::span<uint16_t> bins) {
  STRATA_CHECK(logits.size() == weights.size() && logits.size() == bins.size(), "one length");
  HWY_DYNAMIC_DISPATCH(Weigh)(logits.data(), logits.size(), how, weights.data(), bins.data());
}

double SumExpLogits(std::span<const float> logits, float top) {
  constexpr size_t kPart = 512;
  constexpr size_t kSums = 8;  // element i goes to sum i mod 8
  float weights[kPart];
  double sums[kSums] = {};
  while (!logits.empty()) {
    const size_t count = std::min(kPart, logits.size());
    HWY_DYNAMIC_DISPATCH(ExpOf)(logits.data(), count, top, weights);
    std::fill(weights + count, weights + kPart, 0.0f);
    for (size_t i = 0; i < kPart; i += kSums) {
      for (size_t s = 0; s < kSums; ++s) sums[s] += static_cast<double>(weights[i + s]);
    }
    logits = logits.subspan(count);
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
