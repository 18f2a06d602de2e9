// A span's keys and values as the tiles of attention read them: in the cache's own layout if that
// suits the vectors, else in a copy. Included once for every instruction set.

#if defined(STRATA_KERNELS_CPU_SPAN_PLANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef STRATA_KERNELS_CPU_SPAN_PLANES_INL_H_
#undef STRATA_KERNELS_CPU_SPAN_PLANES_INL_H_
#else
#define STRATA_KERNELS_CPU_SPAN_PLANES_INL_H_
#endif

#include "kernels/cpu/attention.h"
#include "kernels/cpu/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace strata::kernels {
namespace HWY_NAMESPACE {

constexpr int64_t kSpan = Backend::kAttentionSpan;
constexpr auto kSpanFloats = static_cast<size_t>(kSpan);
static_assert(kSpanFloats == kTileDepth, "probabilities of a span are the left side of a tile");

// Positions [first, first + count) of a sequence, all in one span.
struct SpanRange {
  int64_t first;
  int64_t count;
};

// Pieces of `tokens` positions: keys are [head_dim][stride] in each, values [tokens][stride]. The
// pointer after the last piece is to the memory read after the span.
template <class T>
struct SpanPieces {
  const T* pieces[kSpanFloats + 1];
  size_t tokens;
  size_t stride;
};

inline const PlaneRef& PlaneOf(const AttentionUnit& unit, PlaneKind kind) {
  return kind == PlaneKind::kKey ? unit.group->keys : unit.group->values;
}
inline const int32_t* TableOf(const AttentionUnit& unit, const PlaneRef& plane) {
  return unit.sequence->block_tables[plane.block_group];
}
template <class T>
const T* At(const AttentionUnit& unit, int32_t block, size_t offset) {
  return reinterpret_cast<const T*>(unit.cache->arena +
                                    static_cast<size_t>(block) * unit.cache->place_bytes + offset);
}
template <class T>
const T* BlockAt(const AttentionUnit& unit, int64_t position, const PlaneRef& plane) {
  const int32_t block = TableOf(unit, plane)[position / unit.cache->block_tokens];
  return At<T>(unit, block, plane.offset);
}

// Calls run(block, token in it, t, count) for each run of the span's positions [first + t, first
// + t + count) inside one block of the table.
template <class Run>
void ForBlockRuns(const int32_t* table, int32_t block_tokens, SpanRange range, Run run) {
  // Divides once, in 32 bits: a division per block took a sixth of the time of planes in a cache.
  const auto first = static_cast<uint32_t>(range.first);
  const auto tokens = static_cast<uint32_t>(block_tokens);
  const int32_t* block = table + first / tokens;
  int64_t place = first % tokens;
  for (int64_t t = 0; t < range.count; place = 0, ++block) {
    const int64_t count = std::min(block_tokens - place, range.count - t);
    run(*block, place, t, count);
    t += count;
  }
}

inline void Widen(const float* from, size_t count, float* to) {
  std::memcpy(to, from, count * sizeof(float));
}
inline void Widen(const uint16_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(to + i, &bits, sizeof(bits));
  }
}

inline void Widen(const int8_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = from[i];
}

// Copies the span's scales of one int8 plane to `to`, [256], in the order of its scores.
inline void CopyScales(const AttentionUnit& unit, SpanRange range, const PlaneRef& plane,
                       float* to) {
  const int32_t block_tokens = unit.cache->block_tokens;
  const size_t offset = plane.offset + ScalesOffset(block_tokens, unit.group->head_dim);
  ForBlockRuns(TableOf(unit, plane), block_tokens, range,
               [&](int32_t block, int64_t place, int64_t t, int64_t count) {
                 const float* scales = At<float>(unit, block, offset) + place;
                 for (int64_t i = 0; i < count; ++i) to[t + i] = scales[i];
               });
}

// Prefetches the span's scales of one int8 plane.
inline void AskForScales(const AttentionUnit& unit, SpanRange range, const PlaneRef& plane) {
  const int32_t block_tokens = unit.cache->block_tokens;
  const size_t offset = plane.offset + ScalesOffset(block_tokens, unit.group->head_dim);
  ForBlockRuns(TableOf(unit, plane), block_tokens, range,
               [&](int32_t block, int64_t place, int64_t, int64_t count) {
                 ReadAhead ahead(At<float>(unit, block, offset) + place,
                                 static_cast<size_t>(count) * sizeof(float));
                 while (ahead.Ask()) {
                 }
               });
}

// Copies the span's keys to `to`, [head_dim][256].
template <class T>
void CopyKeys(const AttentionUnit& unit, SpanRange range, float* to) {
  const int32_t block_tokens = unit.cache->block_tokens;
  const PlaneRef& keys = unit.group->keys;
  ForBlockRuns(TableOf(unit, keys), block_tokens, range,
               [&](int32_t block, int64_t place, int64_t t, int64_t count) {
                 const T* plane = At<T>(unit, block, keys.offset) + place;
                 for (int32_t d = 0; d < unit.group->head_dim; ++d) {
                   Widen(plane + d * block_tokens, static_cast<size_t>(count), to + d * kSpan + t);
                 }
               });
}

// Copies the span's values to `to`, [256][stride].
template <class T>
void CopyValues(const AttentionUnit& unit, SpanRange range, size_t stride, float* to) {
  const auto head_dim = static_cast<size_t>(unit.group->head_dim);
  for (int64_t t = 0; t < range.count; ++t) {
    const int64_t position = range.first + t;
    const auto slot = static_cast<size_t>(position % unit.cache->block_tokens);
    Widen(BlockAt<T>(unit, position, unit.group->values) + slot * head_dim, head_dim,
          to + static_cast<size_t>(t) * stride);
  }
}

// Keys can be read where they are if a block holds whole vectors of tokens, values if a token's row
// is whole vectors; and either only if spans start where blocks do.
inline bool KeysFit(const PagedArena& cache) {
  return kSpan % cache.block_tokens == 0 && static_cast<size_t>(cache.block_tokens) % kLanes == 0;
}
inline bool ValuesFit(const AttentionUnit& unit) {
  return kSpan % unit.cache->block_tokens == 0 &&
         static_cast<size_t>(unit.group->head_dim) % kLanes == 0;
}

// The first memory that a unit reads in the span that begins at `position`.
template <class T>
const T* FirstRead(const AttentionUnit& unit, int64_t position) {
  return BlockAt<T>(unit, position, unit.finds_scores() ? unit.group->values : unit.group->keys);
}

// The memory that a unit reads after the span's part of one of its planes: after keys the same
// span's values, after values the next span, after the last span the next unit. Only for
// prefetching: it may hold numbers of another type.
template <class T>
const T* ReadAfter(const AttentionUnit& unit, SpanRange range, PlaneKind kind) {
  const PlaneRef& values = unit.group->values;
  if (kind == PlaneKind::kKey) return BlockAt<T>(unit, range.first, values);
  const int64_t next = range.first + range.count;
  if (next < unit.context()) return FirstRead<T>(unit, next);
  return unit.next != nullptr ? FirstRead<T>(*unit.next, 0) : BlockAt<T>(unit, range.first, values);
}

// The span's blocks of one plane, in place in the cache.
template <class T>
SpanPieces<T> InPlace(const AttentionUnit& unit, SpanRange range, PlaneKind kind, size_t stride) {
  SpanPieces<T> in_place;
  in_place.tokens = static_cast<size_t>(unit.cache->block_tokens);
  in_place.stride = stride;
  const T** piece = in_place.pieces;
  const PlaneRef& plane = PlaneOf(unit, kind);
  ForBlockRuns(TableOf(unit, plane), unit.cache->block_tokens, range,
               [&](int32_t block, int64_t, int64_t, int64_t) {
                 *piece++ = At<T>(unit, block, plane.offset);
               });
  *piece = ReadAfter<T>(unit, range, kind);
  return in_place;
}

inline SpanPieces<float> Copied(const float* copy, size_t stride) {
  SpanPieces<float> copied;
  copied.pieces[0] = copied.pieces[1] = copy;
  copied.tokens = kSpanFloats;
  copied.stride = stride;
  return copied;
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::kernels
HWY_AFTER_NAMESPACE();

#endif  // include guard for each target
