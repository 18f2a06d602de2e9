#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/cpu/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/softmax-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

// The queries of a unit that see a span, [begin, end), and how many of its positions each sees
// (at least 1, never falling).
struct SpanQueries {
  int64_t begin;
  int64_t end;
  size_t visible[AttentionUnit::kMaxQueries];
  const float* reused_lse[AttentionUnit::kMaxQueries];  // null: has its own softmax
  int32_t score_slot[AttentionUnit::kMaxQueries];       // -1: not kept, nor found
  const float* vectors;                                 // [kMaxQueries][256]
};

// Scales of the span's tokens in int8 planes, [256]; null: another format, or planes not read.
struct SpanScales {
  const float* keys = nullptr;
  const float* values = nullptr;
};

SpanQueries CollectQueries(const AttentionUnit& unit, SpanRange range, float* vectors) {
  const auto head_dim = static_cast<size_t>(unit.group->head_dim);
  SpanQueries queries;
  queries.begin = unit.FirstQueryAt(range.first);
  queries.end = unit.num_queries;
  queries.vectors = vectors;
  for (QueryCursor at(unit, queries.begin); !at.done(); at.Next()) {
    const HeadAttention& head = at.head();
    const int64_t q = at.query();
    queries.visible[q] =
        static_cast<size_t>(std::min(range.count, at.position() + 1 - range.first));
    queries.reused_lse[q] =
        head.reused_lse == nullptr ? nullptr : head.reused_lse + at.row() * head.lse_stride;
    queries.score_slot[q] = unit.sequence->score_table == nullptr ? -1 : head.score_slot;
    std::memcpy(vectors + static_cast<size_t>(q) * kTileDepth,
                head.query + at.row() * head.query_stride, head_dim * sizeof(float));
  }
  return queries;
}

// Copies the span's scales to `to`, [2][AttentionScratch::kScales]; prefetches the next span's.
SpanScales CollectScales(const AttentionUnit& unit, SpanRange range, float* to) {
  const PlaneGroup& group = *unit.group;
  const int64_t next = range.first + range.count;
  const SpanRange next_range = {next, std::min(kSpan, unit.context() - next)};
  SpanScales scales;
  if (unit.cache->key_format == PlaneFormat::kI8 && !unit.finds_scores()) {
    CopyScales(unit, range, group.keys, to);
    AskForScales(unit, next_range, group.keys);
    scales.keys = to;
  }
  if (unit.cache->value_format == PlaneFormat::kI8) {
    CopyScales(unit, range, group.values, to + AttentionScratch::kScales);
    AskForScales(unit, next_range, group.values);
    scales.values = to + AttentionScratch::kScales;
  }
  return scales;
}

// scores[r, t] = query . key, for kRows rows and every vector of positions. Vectors of several
// blocks are worked on at once: a block alone has too few chains to keep the units busy.
constexpr size_t kMaxTogether = 4;
template <size_t kRows, bool kPairs, class K>
HWY_NOINLINE void ScoreRows(const float* vectors, const K* const* columns, size_t num_columns,
                            size_t stride, size_t head_dim, float* scores) {
  constexpr size_t kTogether = WaitsForMemory(kRows) ? kMaxTogether : 2;
  constexpr size_t kRest = kPairs ? 2 : 1;
  size_t v = 0;
  for (; v + kTogether <= num_columns; v += kTogether) {
    TileVectors<kRows, kTogether, kPairs>(vectors, columns + v, stride, head_dim,
                                          scores + v * kLanes);
  }
  for (; v < num_columns; v += kRest) {
    TileVectors<kRows, kRest, kPairs>(vectors, columns + v, stride, head_dim, scores + v * kLanes);
  }
}

// The same for the tile's rows and every t that its last row sees; scores of further t, up to whole
// vectors or pairs of them, are arbitrary.
template <bool kPairs, class K>
void ScoreTile(size_t rows, const float* vectors, const SpanPieces<K>& keys, size_t head_dim,
               size_t longest, float* scores) {
  const K* columns[kSpanFloats / kLanes + kMaxTogether] = {};
  size_t num_columns = 0;
  for (size_t t = 0; t < RoundUp(longest, kPairs ? 2 * kLanes : kLanes); t += kLanes) {
    columns[num_columns++] = keys.pieces[t / keys.tokens] + t % keys.tokens;
  }
  const K* const later = keys.pieces[(longest + keys.tokens - 1) / keys.tokens];
  std::fill_n(columns + num_columns, kMaxTogether, later);
  WithRows(rows, [&](auto count) {
    ScoreRows<count(), kPairs>(vectors, columns, num_columns, keys.stride, head_dim, scores);
  });
}

template <class K>
void TileScores(size_t rows, const float* vectors, const SpanPieces<K>& keys, size_t head_dim,
                size_t longest, float* scores) {
  if constexpr (kInPairs<K>) {
    if (keys.tokens % (2 * kLanes) == 0) {
      return ScoreTile<true>(rows, vectors, keys, head_dim, longest, scores);
    }
  }
  ScoreTile<false>(rows, vectors, keys, head_dim, longest, scores);
}

// values[r, :] = sum over the positions row r sees of its probability times the value there. Sums
// positions that all rows see together, then the rest row by row: a row never reads a value that it
// does not see, not even with weight 0. That value might be infinite or left over from another
// sequence.
template <class T>
void TileValues(size_t rows, const float* probabilities, const SpanPieces<T>& values,
                size_t columns, const size_t* visible, float* sums, size_t sums_stride) {
  const TileRight<T> right{values.pieces, values.tokens, values.stride};
  const size_t common = visible[0];
  Tile(rows, probabilities, right, columns, 0, common, Chain::kStart, sums, sums_stride);
  for (size_t r = 1; r < rows; ++r) {
    if (visible[r] == common) continue;
    Tile(1, probabilities + r * kTileDepth, right, columns, common, visible[r], Chain::kContinue,
         sums + r * sums_stride, sums_stride);
  }
}

// Stands for the keys of a unit that reads stored scores.
struct StoredScores {};

// Probabilities, up to the span's factor, of the tile's rows from query q on. The first piece of
// the values has been prefetched by then; `ahead` is the second.
template <class Keys>
void TileProbabilities(const AttentionUnit& unit, SpanRange range, const SpanQueries& queries,
                       const SpanScales& scales, const Keys& keys, ReadAhead ahead, size_t q,
                       size_t rows, float* scores, float* states) {
  const auto head_dim = static_cast<size_t>(unit.group->head_dim);
  const size_t state_floats = AttentionStateFloats(unit.group->head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const size_t* visible = queries.visible + q;
  constexpr bool kStored = std::is_same_v<Keys, StoredScores>;
  if constexpr (!kStored) {
    TileScores(rows, queries.vectors + q * kTileDepth, keys, head_dim, visible[rows - 1], scores);
  }
  for (size_t r = 0; r < rows; ++r) {
    float* const s = scores + r * kTileDepth;
    float* const state = states + r * state_floats;
    const float* const reused_lse = queries.reused_lse[q + r];
    const int32_t slot = queries.score_slot[q + r];
    if constexpr (kStored) {
      LoadScores(unit, range, slot, s);
      const int64_t next = range.first + range.count;
      AskForScores(unit, {next, std::min(kSpan, unit.context() - next)}, slot);
    } else {
      if (scales.keys != nullptr) ApplyTokenScales(s, visible[r], scales.keys);
      state[0] = ScaleScores(s, visible[r], scale);
      if (slot >= 0 && reused_lse == nullptr) StoreScores(unit, range, slot, s);
    }
    state[1] = Exponentiate(s, visible[r], reused_lse == nullptr ? state[0] : *reused_lse, ahead);
  }
}

template <class Keys, class T>
void AttendTiles(const AttentionUnit& unit, SpanRange range, const SpanQueries& queries,
                 const SpanScales& scales, const Keys& keys, const SpanPieces<T>& values,
                 float* scores, float* partial) {
  const size_t state_floats = AttentionStateFloats(unit.group->head_dim);
  const size_t columns = RoundUp(static_cast<size_t>(unit.group->head_dim), kLanes);
  const size_t piece_bytes = values.tokens * values.stride * sizeof(T);
  const auto end = static_cast<size_t>(queries.end);
  size_t rows = 0;
  for (auto q = static_cast<size_t>(queries.begin); q < end; q += rows) {
    rows = std::min(kTileRows, end - q);
    float* const states = partial + q * state_floats;
    const ReadAhead second =
        WaitsForMemory(rows) ? ReadAhead(values.pieces[1], piece_bytes) : ReadAhead();
    TileProbabilities(unit, range, queries, scales, keys, second, q, rows, scores, states);
    if (scales.values != nullptr) {
      for (size_t r = 0; r < rows; ++r) {
        ApplyTokenScales(scores + r * kTileDepth, queries.visible[q + r], scales.values);
      }
    }
    TileValues(rows, scores, values, columns, queries.visible + q, states + kStateValues,
               state_floats);
  }
}

template <class T, class Keys>
void AttendKeys(const AttentionUnit& unit, SpanRange range, const SpanQueries& queries,
                const SpanScales& scales, const Keys& keys, float* scores, float* copy,
                float* partial) {
  const auto head_dim = static_cast<size_t>(unit.group->head_dim);
  if (ValuesFit(unit)) {
    const SpanPieces<T> values = InPlace<T>(unit, range, PlaneKind::kValue, head_dim);
    AttendTiles(unit, range, queries, scales, keys, values, scores, partial);
  } else {
    const size_t stride = RoundUp(head_dim, kFixedLanes);
    CopyValues<T>(unit, range, stride, copy);
    AttendTiles(unit, range, queries, scales, keys, Copied(copy, stride), scores, partial);
  }
}

// Calls use(keys) with the span's keys, in place or copied to `copy`.
template <class T, class Use>
void WithKeys(const AttentionUnit& unit, SpanRange range, float* copy, Use use) {
  const PagedArena& cache = *unit.cache;
  if (KeysFit(cache)) {
    const auto stride = static_cast<size_t>(cache.block_tokens);
    use(InPlace<T>(unit, range, PlaneKind::kKey, stride));
  } else {
    CopyKeys<T>(unit, range, copy);
    use(Copied(copy, kSpanFloats));
  }
}

// Calls use(0 of the type that numbers of `format` have in memory).
template <class Use>
void WithType(PlaneFormat format, Use use) {
  switch (format) {
    case PlaneFormat::kF32:
      return use(float());
    case PlaneFormat::kI8:
      return use(int8_t());
    default:
      return use(uint16_t());
  }
}

template <class T>
void AttendValues(const AttentionUnit& unit, SpanRange range, float* scratch, float* partial) {
  const SpanQueries queries = CollectQueries(unit, range, scratch);
  float* scores = scratch + AttentionScratch::kQueries;
  float* scale_copy = scores + AttentionScratch::kScores;
  float* key_copy = scale_copy + 2 * AttentionScratch::kScales;
  float* value_copy = key_copy + AttentionScratch::Keys(unit.group->head_dim);
  const SpanScales scales = CollectScales(unit, range, scale_copy);
  const auto attend = [&](const auto& keys) {
    AttendKeys<T>(unit, range, queries, scales, keys, scores, value_copy, partial);
  };
  if (unit.finds_scores()) return attend(StoredScores());
  WithType(unit.cache->key_format,
           [&](auto zero) { WithKeys<decltype(zero)>(unit, range, key_copy, attend); });
}

SpanRange RangeOf(const AttentionUnit& unit, int64_t span) {
  return {span * kSpan, std::min(kSpan, unit.context() - span * kSpan)};
}

void Attend(const AttentionUnit& unit, int64_t span, float* scratch, float* partial) {
  static_assert(kTileRows * kTileDepth <= AttentionScratch::kScores);
  WithType(unit.cache->value_format, [&](auto zero) {
    AttendValues<decltype(zero)>(unit, RangeOf(unit, span), scratch, partial);
  });
}

void Probabilities(const AttentionUnit& unit, int64_t span, float* scratch, float* out) {
  const SpanRange range = RangeOf(unit, span);
  const SpanQueries queries = CollectQueries(unit, range, scratch);
  float* scores = scratch + AttentionScratch::kQueries;
  float* scale_copy = scores + AttentionScratch::kScores;
  float* key_copy = scale_copy + 2 * AttentionScratch::kScales;
  const SpanScales scales = CollectScales(unit, range, scale_copy);
  HWY_ALIGN float state[kStateValues];
  WithType(unit.cache->key_format, [&](auto zero) {
    WithKeys<decltype(zero)>(unit, range, key_copy, [&](const auto& keys) {
      TileProbabilities(unit, range, queries, scales, keys, ReadAhead(), 0, 1, scores, state);
    });
  });
  std::memcpy(out + range.first, scores, static_cast<size_t>(range.count) * sizeof(float));
}

float ExpOf(float x) { return hn::GetLane(Exp(hn::Set(D(), x))); }

// state = state rescaled to the common maximum + the span, rescaled likewise.
void MergeOwn(const float* span, size_t columns, float* state) {
  const float maximum = span[0] > state[0] ? span[0] : state[0];
  const float keep = ExpOf(state[0] - maximum);
  const float add = ExpOf(span[0] - maximum);
  state[0] = maximum;
  state[1] = std::fma(state[1], keep, span[1] * add);
  for (size_t j = kStateValues; j < columns; j += kLanes) {
    const V added = hn::Mul(hn::LoadU(D(), span + j), hn::Set(D(), add));
    hn::StoreU(Fma(hn::LoadU(D(), state + j), hn::Set(D(), keep), added), D(), state + j);
  }
}

void Merge(const AttentionUnit& unit, int64_t span, const float* partial, float* state) {
  const size_t floats = AttentionStateFloats(unit.group->head_dim);
  if (span == 0) {
    std::memcpy(state, partial, static_cast<size_t>(unit.num_queries) * floats * sizeof(float));
    return;
  }
  for (QueryCursor at(unit, unit.FirstQueryAt(span * kSpan)); !at.done(); at.Next()) {
    const float* from = partial + static_cast<size_t>(at.query()) * floats;
    float* to = state + static_cast<size_t>(at.query()) * floats;
    if (at.head().reused_lse == nullptr) {
      MergeOwn(from, floats, to);
      continue;
    }
    for (size_t j = kStateValues; j < floats; j += kLanes) {
      hn::StoreU(hn::Add(hn::LoadU(D(), to + j), hn::LoadU(D(), from + j)), D(), to + j);
    }
  }
}

void Finish(const AttentionUnit& unit, const float* state) {
  const auto head_dim = static_cast<size_t>(unit.group->head_dim);
  const size_t floats = AttentionStateFloats(unit.group->head_dim);
  for (QueryCursor at(unit, 0); !at.done(); at.Next(), state += floats) {
    const HeadAttention& head = at.head();
    float* output = head.output + at.row() * head.output_stride;
    if (head.reused_lse != nullptr) {
      std::memcpy(output, state + kStateValues, head_dim * sizeof(float));
      continue;
    }
    const V sum = hn::Set(D(), state[1]);
    for (size_t j = 0; j < head_dim; j += kLanes) {
      StoreUpTo(hn::Div(hn::LoadU(D(), state + kStateValues + j), sum), output + j, head_dim - j);
    }
    if (head.lse != nullptr) {
      // In double, so that the result does not depend on the system's logf.
      head.lse[at.row() * head.lse_stride] =
          static_cast<float>(double{state[0]} + std::log(double{state[1]}));
    }
  }
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::kernels {

HWY_EXPORT(Attend);
HWY_EXPORT(Merge);
HWY_EXPORT(Finish);
HWY_EXPORT(Probabilities);

void AttendSpan(const AttentionUnit& unit, int64_t span, float* scratch, float* partial) {
  HWY_DYNAMIC_DISPATCH(Attend)(unit, span, scratch, partial);
}

void MergeSpan(const AttentionUnit& unit, int64_t span, const float* partial, float* state) {
  HWY_DYNAMIC_DISPATCH(Merge)(unit, span, partial, state);
}

void SpanProbabilities(const AttentionUnit& unit, int64_t span, float* scratch, float* out) {
  HWY_DYNAMIC_DISPATCH(Probabilities)(unit, span, scratch, out);
}

void FinishUnit(const AttentionUnit& unit, const float* state) {
  HWY_DYNAMIC_DISPATCH(Finish)(unit, state);
}

}  // namespace strata::kernels
#endif  // HWY_ONCE
