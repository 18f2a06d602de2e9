// From the scores of one query to its probabilities, and the blocks in which a decode step keeps
// scores. Included once for every instruction set.

#if defined(STRATA_KERNELS_CPU_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_KERNELS_CPU_SOFTMAX_INL_H_
#undef STRATA_KERNELS_CPU_SOFTMAX_INL_H_
#else
#define STRATA_KERNELS_CPU_SOFTMAX_INL_H_
#endif

#include <limits>

#include "kernels/cpu/span_planes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

// Sets the floats after s[0, n), up to whole lanes, to -infinity: they then weigh nothing.
inline void PadScores(float* s, size_t n) {
  const size_t padded = RoundUp(n, kFixedLanes);
  for (size_t i = n; i < padded; ++i) s[i] = -std::numeric_limits<float>::infinity();
}

// Multiplies s[0, n) by the scales of their tokens; the floats after it, up to whole vectors,
// become anything.
inline void ApplyTokenScales(float* s, size_t n, const float* scales) {
  const D d;
  for (size_t i = 0; i < n; i += kLanes) {
    hn::StoreU(hn::Mul(hn::LoadU(d, s + i), hn::LoadU(d, scales + i)), d, s + i);
  }
}

// Scales s[0, n), pads them, and returns their maximum.
inline float ScaleScores(float* s, size_t n, float scale) {
  const D d;
  const size_t padded = RoundUp(n, kFixedLanes);
  V maximum = hn::Set(d, -std::numeric_limits<float>::infinity());
  PadScores(s, n);
  for (size_t i = 0; i < padded; i += kLanes) {
    const V scaled = hn::Mul(hn::LoadU(d, s + i), hn::Set(d, scale));
    maximum = hn::Max(maximum, scaled);
    hn::StoreU(scaled, d, s + i);
  }
  HWY_ALIGN float lanes[kFixedLanes];
  hn::Store(maximum, d, lanes);
  return *std::max_element(lanes, lanes + kLanes);
}

// s = exp(s - base) for padded scores s[0, n). Returns their sum. Prefetches `ahead`, as memory is
// idle meanwhile.
inline float Exponentiate(float* s, size_t n, float base_score, ReadAhead& ahead) {
  constexpr size_t kVectors = kFixedLanes / kLanes;
  const D d;
  const V base = hn::Set(d, base_score);
  const size_t padded = RoundUp(n, kFixedLanes);
  V sums[kVectors];
  for (V& sum : sums) sum = hn::Zero(d);
  for (size_t i = 0; i < padded; i += kFixedLanes) {
    ahead.Ask();
    for (size_t v = 0; v < kVectors; ++v) {
      float* at = s + i + v * kLanes;
      const V p = Exp(hn::Sub(hn::LoadU(d, at), base));
      sums[v] = hn::Add(sums[v], p);  // past n: an exact 0
      hn::StoreU(p, d, at);
    }
  }
  HWY_ALIGN float lanes[kFixedLanes];
  for (size_t v = 0; v < kVectors; ++v) hn::Store(sums[v], d, lanes + v * kLanes);
  return SumFixedLanes(lanes);
}

// Calls run(place in its score block, t, count) for each run of the span's positions [first + t,
// first + t + count) inside one block.
template <class Run>
void ForScoreRuns(const AttentionUnit& unit, SpanRange range, int32_t slot, Run run) {
  const PagedArena& cache = *unit.cache;
  const int64_t block_tokens = cache.block_tokens;
  ForBlockRuns(unit.sequence->score_table, cache.block_tokens, range,
               [&](int64_t block, int64_t place, int64_t t, int64_t count) {
                 const int64_t row = block * cache.score_slots + slot;
                 run(cache.scores + row * block_tokens + place, t, count);
               });
}

inline void StoreScores(const AttentionUnit& unit, SpanRange range, int32_t slot, const float* s) {
  ForScoreRuns(unit, range, slot, [&](float* to, int64_t t, int64_t count) {
    std::memcpy(to, s + t, static_cast<size_t>(count) * sizeof(float));
  });
}

inline void LoadScores(const AttentionUnit& unit, SpanRange range, int32_t slot, float* s) {
  ForScoreRuns(unit, range, slot, [&](const float* from, int64_t t, int64_t count) {
    std::memcpy(s + t, from, static_cast<size_t>(count) * sizeof(float));
  });
  PadScores(s, static_cast<size_t>(range.count));
}

inline void AskForScores(const AttentionUnit& unit, SpanRange range, int32_t slot) {
  ForScoreRuns(unit, range, slot, [](const float* from, int64_t, int64_t count) {
    ReadAhead ahead(from, static_cast<size_t>(count) * sizeof(float));
    while (ahead.Ask()) {
    }
  });
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
