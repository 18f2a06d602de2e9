#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_types.h"
#include "kernels/cuda/paging.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

// Arguments of the attention kernels. The two lists in device memory are the same for all layers of
// a step; everything else is in the kernel's arguments.
namespace strata::kernels::cuda {

struct SequenceEntry {
  int64_t first_row = 0;  // of the batch
  int32_t num_rows = 0;
  int32_t first_position = 0;
  // Its block table of block group g begins at AttentionArgs::tables[table + g * table_blocks].
  int64_t table = 0;
  int32_t table_blocks = 0;
  int64_t score_table = -1;  // the index of its score blocks; -1: none
  int64_t first_state = 0;   // of its rows' spans, in spans

  friend bool operator==(const SequenceEntry&, const SequenceEntry&) = default;
};

struct HeadEntry {
  const float* query = nullptr;  // [num_rows, head_dim], query_stride apart
  float* output = nullptr;       // likewise
  float* lse = nullptr;          // [num_rows], lse_stride apart; may be null
  const float* reused_lse = nullptr;
  int64_t query_stride = 0;
  int64_t output_stride = 0;
  int64_t lse_stride = 0;
  int32_t score_slot = -1;

  friend bool operator==(const HeadEntry&, const HeadEntry&) = default;
};

// Heads [first_head, first_head + num_heads) read one pair of planes. Each plane is kept in the
// second cache or not.
struct GroupEntry {
  PlaneRef keys = {};
  PlaneRef values = {};
  int32_t first_head = 0;
  int32_t num_heads = 0;
  bool keep_keys = false;
  bool keep_values = false;

  friend bool operator==(const GroupEntry&, const GroupEntry&) = default;
};

__host__ __device__ inline int64_t TableOf(const SequenceEntry& sequence, const PlaneRef& plane) {
  return sequence.table + int64_t{plane.block_group} * sequence.table_blocks;
}

constexpr int kMaxHeads = 64;  // of a launch

struct AttentionArgs {
  const std::byte* arena = nullptr;
  size_t place_bytes = 0;
  int32_t block_tokens = 1;
  int32_t head_dim = 0;
  PlaneFormat key_format = PlaneFormat::kF32;
  PlaneFormat value_format = PlaneFormat::kF32;
  float* scores = nullptr;
  int32_t score_slots = 0;
  float scale = 1;  // 1 / sqrt(head_dim)

  const SequenceEntry* sequences = nullptr;
  const int32_t* tables = nullptr;
  // States of spans to be merged: StateFloats(head_dim) for each (row and span, head).
  float* states = nullptr;

  int32_t num_sequences = 0;
  int32_t num_heads = 0;
  int32_t num_groups = 0;
  HeadEntry heads[kMaxHeads];
  GroupEntry groups[kMaxHeads];

  friend bool operator==(const AttentionArgs&, const AttentionArgs&) = default;
};

// Floats of a state: the maximum, the sum, two unused, then the weighted values.
__host__ __device__ inline int64_t StateFloats(int32_t head_dim) { return 4 + head_dim; }

// Takes any format and head size up to 256; one block of threads for each row and head.
void AttendGenerally(Stream& stream, const AttentionArgs& args, int64_t most_rows);
// Writes exp(score - log-sum-exp) of the sequence's first row and of head 0; reads the head's lse.
void FindProbabilities(Stream& stream, const AttentionArgs& args, int32_t context, float* out);

// Whether the tensor cores' kernels take a cache like this.
bool HasTensorKernel(const AttentionArgs& args);
constexpr bool IsTensorHeadDim(int32_t head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 128;
}
// The division of queries and contexts among blocks of threads: no bit depends on it.
struct TensorLaunch {
  bool shares_queries = false;  // all warps work on the same 16 queries; else 16 for each of four
  int32_t query_tiles = 1;      // of the longest sequence and group
  int32_t runs = 1;             // of spans; more than one: states are written, to be merged
  int32_t spans_per_run = 1;

  friend bool operator==(const TensorLaunch&, const TensorLaunch&) = default;
};
constexpr int32_t kSharedQueries = 16;
constexpr int32_t kTileQueries = 64;
void AttendOnTensorCores(Stream& stream, const AttentionArgs& args, const TensorLaunch& launch);
// Merges the spans of every row and head, left to right.
void MergeSpans(Stream& stream, const AttentionArgs& args, int64_t most_rows);

}  // namespace strata::kernels::cuda
