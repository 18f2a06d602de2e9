#include "kernels/cpu/planes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/convert.h"
#include "kernels/cpu/attention.h"

namespace strata::kernels {
namespace {

void ConvertRow(const float* from, size_t count, float* to) {
  std::memcpy(to, from, count * sizeof(float));
}
void ConvertRow(const float* from, size_t count, uint16_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = BF16FromFloat(from[i]);
}
// Returns the scale.
float ConvertRow(const float* from, size_t count, int8_t* to) {
  uint32_t largest = 0;  // |x| as bits, which order as the numbers do, with NaN above infinity
  for (size_t i = 0; i < count; ++i) {
    largest = std::max(largest, std::bit_cast<uint32_t>(from[i]) & 0x7fffffffu);
  }
  const bool finite = largest < 0x7f800000u;
  const float scale = std::bit_cast<float>(largest) / 127.0f;
  if (!finite || scale == 0) {
    std::memset(to, 0, count);
    return finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  // After adding 1.5 * 2^23 no bits are left below 1: the sum is rounded to nearest even. A
  // quotient is beyond 127 only if the scale is so small that it was rounded itself.
  constexpr float kMagic = 12582912.0f;
  for (size_t i = 0; i < count; ++i) {
    const float number = (from[i] / scale + kMagic) - kMagic;
    to[i] = static_cast<int8_t>(std::clamp(number, -127.0f, 127.0f));
  }
  return scale;
}

template <class T>
void WriteRows(const PagedArena& cache, std::span<const int64_t> slots, const HeadWay& way,
               int64_t begin, int64_t end) {
  const auto head_dim = static_cast<size_t>(way.head_dim);
  const auto block_tokens = static_cast<size_t>(cache.block_tokens);
  T row[Backend::kMaxHeadDim];
  for (int64_t i = begin; i < end; ++i) {
    if (slots[static_cast<size_t>(i)] < 0) continue;  // kNoSlot
    const auto slot = static_cast<size_t>(slots[static_cast<size_t>(i)]);
    const size_t token = slot % block_tokens;
    std::byte* plane = cache.arena + slot / block_tokens * cache.place_bytes + way.plane.offset;
    const float* from = way.data + i * way.stride;
    if constexpr (std::is_same_v<T, int8_t>) {
      reinterpret_cast<float*>(plane + ScalesOffset(cache.block_tokens, way.head_dim))[token] =
          ConvertRow(from, head_dim, row);
    } else {
      ConvertRow(from, head_dim, row);
    }
    T* to = reinterpret_cast<T*>(plane);
    if (way.kind == PlaneKind::kKey) {
      for (size_t d = 0; d < head_dim; ++d) to[d * block_tokens + token] = row[d];
    } else {
      std::memcpy(to + token * head_dim, row, head_dim * sizeof(T));
    }
  }
}

}  // namespace

void WritePlaneRows(const PagedArena& cache, std::span<const int64_t> slots, const HeadWay& way,
                    int64_t begin, int64_t end) {
  switch (cache.format(way.kind)) {
    case PlaneFormat::kF32:
      return WriteRows<float>(cache, slots, way, begin, end);
    case PlaneFormat::kI8:
      return WriteRows<int8_t>(cache, slots, way, begin, end);
    default:
      return WriteRows<uint16_t>(cache, slots, way, begin, end);
  }
}

}  // namespace strata::kernels
