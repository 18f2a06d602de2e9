#include "kernels/cpu/planes.h"

#include "kernels/cpu/convert.h"

namespace strata::kernels {
namespace {

void StoreAs(float value, float* to) { *to = value; }
void StoreAs(float value, uint16_t* to) { *to = BF16FromFloat(value); }

template <class T>
void WriteRows(const PagedArena& cache, std::span<const int64_t> slots, const PlaneWrite& write,
               int64_t begin, int64_t end) {
  const int64_t head_dim = cache.head_dim;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t slot = slots[static_cast<size_t>(i)];
    const auto block = static_cast<size_t>(slot / cache.block_tokens);
    const int64_t token = slot % cache.block_tokens;
    T* plane = reinterpret_cast<T*>(cache.arena + block * cache.block_bytes + write.plane_offset);
    const float* from = write.source + i * write.source_stride;
    if (write.kind == PlaneKind::kKey) {
      for (int64_t d = 0; d < head_dim; ++d)
        StoreAs(from[d], plane + d * cache.block_tokens + token);
    } else {
      for (int64_t d = 0; d < head_dim; ++d) StoreAs(from[d], plane + token * head_dim + d);
    }
  }
}

}  // namespace

void WritePlaneRows(const PagedArena& cache, std::span<const int64_t> slots,
                    const PlaneWrite& write, int64_t begin, int64_t end) {
  if (cache.dtype == DType::kF32) {
    WriteRows<float>(cache, slots, write, begin, end);
  } else {
    WriteRows<uint16_t>(cache, slots, write, begin, end);
  }
}

}  // namespace strata::kernels
