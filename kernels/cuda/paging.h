#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime.h"
#include "kernels/tensor.h"

// Places in the paged cache, and the merge of parts of a context.
// Used by kernels and host alike. On the device a plane is [block_tokens][head_dim], keys as well
// as values; in 8 bits a token's numbers are padded to whole words, and the block's f32 scales,
// [block_tokens], follow them.
namespace strata::kernels::cuda {

constexpr int kSpan =
    256;  // positions of a context whose softmax is one chain; Backend::kAttentionSpan

// Bytes of a token's numbers in a plane, without its scale; `size`: bytes of a number.
__host__ __device__ constexpr size_t TokenStride(size_t size, int32_t head_dim) {
  const size_t bytes = static_cast<size_t>(head_dim) * size;
  return size == 1 ? (bytes + 3) / 4 * 4 : bytes;
}

struct CachePlace {
  int32_t block = 0;
  int32_t token = 0;  // of the block
};
__host__ __device__ inline CachePlace PlaceOf(int32_t position, const int32_t* block_table,
                                              int32_t block_tokens) {
  const auto p = static_cast<uint32_t>(position);
  const auto tokens = static_cast<uint32_t>(block_tokens);
  return {block_table[p / tokens], static_cast<int32_t>(p % tokens)};
}

// Index in floats from the start of the score blocks.
__host__ __device__ inline size_t ScoreIndex(CachePlace place, int32_t score_slots, int32_t slot,
                                             int32_t block_tokens) {
  return (static_cast<size_t>(place.block) * static_cast<size_t>(score_slots) +
          static_cast<size_t>(slot)) *
             static_cast<size_t>(block_tokens) +
         static_cast<size_t>(place.token);
}

__host__ __device__ inline int32_t SpansOf(int32_t context) {
  return (context + kSpan - 1) / kSpan;
}

// A run of spans that one block of threads works through: run r of a context has spans
// [begin, end). A context of fewer spans has fewer runs; the others are empty.
struct SpanRun {
  int32_t begin = 0;
  int32_t end = 0;
};
__host__ __device__ inline SpanRun RunOf(int32_t run, int32_t spans_per_run, int32_t num_spans) {
  const int32_t begin = run * spans_per_run;
  const int32_t end = begin + spans_per_run;
  return {begin < num_spans ? begin : num_spans, end < num_spans ? end : num_spans};
}

// Weights for merging two parts of a context's softmax: the state so far and the next, whose maxima
// are `most` and `next`. A part that saw nothing has a maximum of -infinity.
struct MergeWeights {
  float most;
  float kept;
  float added;
};
__host__ __device__ inline MergeWeights Weigh(float most, float next) {
  const float larger = fmaxf(most, next);
  const float base = larger == -INFINITY ? 0.0f : larger;
  return {larger, expf(most - base), expf(next - base)};
}

}  // namespace strata::kernels::cuda
