// Attention for every format and head size, in f32; also the merge of spans, and probabilities for
// callers. A block of threads takes a row and head: each thread takes positions, then dimensions.
#include <cmath>

#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/merge.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxDim = 256;
constexpr int kDims = kMaxDim / kThreads;  // of a thread

__device__ __forceinline__ float Element(const std::byte* row, PlaneFormat format, int32_t i) {
  return WithNumbers(format,
                     [&]<class T>() { return ToFloat(reinterpret_cast<const T*>(row)[i]); });
}

// A token's row of a plane, and its scale.
struct TokenRow {
  const std::byte* numbers;
  float scale;
};
__device__ __forceinline__ TokenRow RowAt(const AttentionArgs& args, CachePlace place,
                                          const PlaneRef& ref, PlaneFormat format) {
  const std::byte* const plane =
      args.arena + static_cast<size_t>(place.block) * args.place_bytes + ref.offset;
  const size_t stride = TokenStride(NumberBytes(format), args.head_dim);
  float scale = 1;
  if (HasScale(format)) {
    scale = reinterpret_cast<const float*>(plane + static_cast<size_t>(args.block_tokens) *
                                                       stride)[place.token];
  }
  return {plane + static_cast<size_t>(place.token) * stride, scale};
}

__device__ float Score(const AttentionArgs& args, const float* query, CachePlace place,
                       const PlaneRef& keys) {
  const TokenRow key = RowAt(args, place, keys, args.key_format);
  float score = 0;
  for (int32_t d = 0; d < args.head_dim; ++d) {
    score = fmaf(query[d], Element(key.numbers, args.key_format, d), score);
  }
  return score * key.scale * args.scale;
}

__device__ __forceinline__ const GroupEntry& GroupOf(const AttentionArgs& args, int32_t head) {
  int32_t group = 0;
  while (head >= args.groups[group].first_head + args.groups[group].num_heads) ++group;
  return args.groups[group];
}

// Shared: query [head_dim], scores or weights [kSpan], a float for each warp.
__global__ void __launch_bounds__(kThreads, 4)
    GeneralKernel(const __grid_constant__ AttentionArgs args) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const HeadEntry& head = args.heads[blockIdx.y];
  const GroupEntry& group = GroupOf(args, static_cast<int32_t>(blockIdx.y));
  const SequenceEntry& sequence = args.sequences[blockIdx.z];
  if (static_cast<int32_t>(blockIdx.x) >= sequence.num_rows) return;
  const int64_t row = sequence.first_row + blockIdx.x;
  const int32_t context = sequence.first_position + static_cast<int32_t>(blockIdx.x) + 1;
  const int32_t* const key_table = args.tables + TableOf(sequence, group.keys);
  const int32_t* const value_table = args.tables + TableOf(sequence, group.values);
  const bool keeps = sequence.score_table >= 0 && head.score_slot >= 0;
  const bool reuses = head.reused_lse != nullptr;
  float lse = 0;
  if (reuses) lse = head.reused_lse[row * head.lse_stride];

  float* const query = ptx::SharedMemory<float>();
  float* const scores = query + args.head_dim;
  float* const warps = scores + kSpan;
  for (int32_t d = thread; d < args.head_dim; d += kThreads) {
    query[d] = head.query[row * head.query_stride + d];
  }
  __syncthreads();

  float most = reuses ? lse : -INFINITY;
  float sum = 0;
  float values[kDims] = {};
  for (int32_t begin = 0; begin < context; begin += kSpan) {
    const int32_t count = min(kSpan, context - begin);
    float span_most = -INFINITY;
    for (int32_t i = thread; i < count; i += kThreads) {
      const CachePlace place = PlaceOf(begin + i, key_table, args.block_tokens);
      float* kept = nullptr;
      if (keeps) {
        const CachePlace score_place =
            PlaceOf(begin + i, args.tables + sequence.score_table, args.block_tokens);
        kept = args.scores +
               ScoreIndex(score_place, args.score_slots, head.score_slot, args.block_tokens);
      }
      float score;
      if (keeps && reuses) {
        score = *kept;
      } else {
        score = Score(args, query, place, group.keys);
        if (keeps) *kept = score;
      }
      scores[i] = score;
      span_most = fmaxf(span_most, score);
    }
    span_most = reuses ? lse : BlockMax<kThreads>(span_most, warps);
    float span_sum = 0;
    for (int32_t i = thread; i < count; i += kThreads) {
      scores[i] = expf(scores[i] - span_most);
      span_sum += scores[i];
    }
    span_sum = BlockSum<kThreads>(span_sum, warps);  // its barriers also make all weights visible
    float span_values[kDims] = {};
    for (int32_t i = 0; i < count; ++i) {
      const TokenRow value = RowAt(args, PlaceOf(begin + i, value_table, args.block_tokens),
                                   group.values, args.value_format);
      const float weight = scores[i] * value.scale;
#pragma unroll
      for (int k = 0; k < kDims; ++k) {
        const int32_t d = thread + k * kThreads;
        if (d >= args.head_dim) continue;
        span_values[k] = fmaf(weight, Element(value.numbers, args.value_format, d), span_values[k]);
      }
    }
    const MergeWeights weights = Weigh(most, span_most);
    most = weights.most;
    sum = Merged(sum, weights.kept, span_sum, weights.added);
    for (int k = 0; k < kDims; ++k) {
      values[k] = Merged(values[k], weights.kept, span_values[k], weights.added);
    }
    __syncthreads();  // the weights are read before the next span's scores are written
  }
  for (int k = 0; k < kDims; ++k) {
    const int32_t d = thread + k * kThreads;
    if (d >= args.head_dim) continue;
    head.output[row * head.output_stride + d] = reuses ? values[k] : values[k] / sum;
  }
  if (thread == 0 && !reuses && head.lse != nullptr) {
    head.lse[row * head.lse_stride] = most + logf(sum);
  }
}

// One block for each span.
__global__ void __launch_bounds__(kThreads)
    ProbabilitiesKernel(const __grid_constant__ AttentionArgs args, int32_t context, float* out) {
  const HeadEntry& head = args.heads[0];
  const SequenceEntry& sequence = args.sequences[0];
  const float* const query = head.query + sequence.first_row * head.query_stride;
  const float lse = head.lse[sequence.first_row * head.lse_stride];
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kSpan;
  for (int32_t p = begin + static_cast<int32_t>(threadIdx.x); p < min(begin + kSpan, context);
       p += kThreads) {
    const PlaneRef& keys = args.groups[0].keys;
    const CachePlace place = PlaceOf(p, args.tables + TableOf(sequence, keys), args.block_tokens);
    out[p] = expf(Score(args, query, place, keys) - lse);
  }
}

// One block for each row and head; a thread takes some dimensions.
__global__ void __launch_bounds__(kThreads)
    MergeKernel(const __grid_constant__ AttentionArgs args) {
  const HeadEntry& head = args.heads[blockIdx.y];
  const SequenceEntry& sequence = args.sequences[blockIdx.z];
  if (static_cast<int32_t>(blockIdx.x) >= sequence.num_rows) return;
  const bool reuses = head.reused_lse != nullptr;
  const int64_t row = sequence.first_row + blockIdx.x;
  const int32_t spans = SpansOf(sequence.first_position + sequence.num_rows);
  const int64_t state_floats = StateFloats(args.head_dim);
  const int64_t stride = state_floats * args.num_heads;
  const float* const first =
      args.states + (sequence.first_state + static_cast<int64_t>(blockIdx.x) * spans) * stride +
      blockIdx.y * state_floats;
  for (int32_t d = static_cast<int32_t>(threadIdx.x); d < args.head_dim; d += kThreads) {
    float most = -INFINITY;
    float sum = 0;
    float value = 0;
    for (int32_t span = 0; span < spans; ++span) {
      const float* const state = first + span * stride;
      const MergeWeights weights = Weigh(most, state[0]);
      most = weights.most;
      sum = Merged(sum, weights.kept, state[1], weights.added);
      value = Merged(value, weights.kept, state[4 + d], weights.added);
    }
    head.output[row * head.output_stride + d] = reuses ? value : value / sum;
    if (d == 0 && !reuses && head.lse != nullptr) {
      head.lse[row * head.lse_stride] = most + logf(sum);
    }
  }
}

// Rows are in the x dimension: a prompt may have more than the 65,535 blocks of the others.
dim3 GridOf(const AttentionArgs& args, int64_t most_rows) {
  return dim3(static_cast<uint32_t>(most_rows), static_cast<uint32_t>(args.num_heads),
              static_cast<uint32_t>(args.num_sequences));
}

}  // namespace

void AttendGenerally(Stream& stream, const AttentionArgs& args, int64_t most_rows) {
  const size_t floats = static_cast<size_t>(args.head_dim) + kSpan + kThreads / kWarp;
  stream.Launch("Attention", GridOf(args, most_rows), dim3(kThreads), floats * sizeof(float),
                GeneralKernel, args);
}

void FindProbabilities(Stream& stream, const AttentionArgs& args, int32_t context, float* out) {
  stream.Launch("AttentionProbabilities", dim3(static_cast<uint32_t>(SpansOf(context))),
                dim3(kThreads), 0, ProbabilitiesKernel, args, context, out);
}

void MergeSpans(Stream& stream, const AttentionArgs& args, int64_t most_rows) {
  stream.Launch("MergeSpans", GridOf(args, most_rows), dim3(kThreads), 0, MergeKernel, args);
}

}  // namespace strata::kernels::cuda
