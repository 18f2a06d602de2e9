#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"

// Inputs of attention: planes of the paged cache, rows of sequences, heads.
namespace strata::kernels {

enum class PlaneKind : uint8_t { kKey, kValue };

// Bytes that a token takes in a plane. In 8 bits a token takes head_dim numbers, padded to whole
// words, and one f32 scale for all of them.
constexpr size_t PlaneTokenBytes(PlaneFormat format, int32_t head_dim) {
  const size_t numbers = static_cast<size_t>(head_dim) * NumberBytes(format);
  return HasScale(format) ? (numbers + 3) / 4 * 4 + sizeof(float) : numbers;
}

// The paged cache as kernels see it. Block b starts at `arena + b * block_bytes`; a plane holds
// [block_tokens, head_dim] elements of its format at a byte offset inside every block. The order of
// the elements inside a plane is the backend's own affair (the CPU keeps keys transposed). In 8
// bits the block's scales, [block_tokens], are the plane's last bytes.
//
// Score blocks, apart from the planes, hold the scores that a decode step keeps for later layers:
// score block b starts at `scores + b * score_slots * block_tokens` and holds
// [score_slots][block_tokens] of query . key / sqrt(head_dim).
struct PagedArena {
  std::byte* arena = nullptr;
  size_t block_bytes = 0;
  int32_t block_tokens = 0;
  int32_t head_dim = 0;
  PlaneFormat key_format = PlaneFormat::kF32;
  PlaneFormat value_format = PlaneFormat::kF32;
  float* scores = nullptr;
  int32_t score_slots = 0;

  PlaneFormat format(PlaneKind kind) const {
    return kind == PlaneKind::kKey ? key_format : value_format;
  }
  size_t TokenBytes(PlaneKind kind) const { return PlaneTokenBytes(format(kind), head_dim); }
  // Byte offset of a block's scales inside an 8-bit plane.
  size_t ScalesOffset() const {
    return static_cast<size_t>(block_tokens) *
           (PlaneTokenBytes(PlaneFormat::kI8, head_dim) - sizeof(float));
  }
};

// One kv head of one layer on its way into the cache.
struct PlaneWrite {
  PlaneKind kind = PlaneKind::kKey;
  size_t plane_offset = 0;        // bytes into the block
  const float* source = nullptr;  // [num_rows, head_dim], rows `source_stride` floats apart
  int64_t source_stride = 0;
};

// Neighbouring value heads mixed with the first layer's (ResFormer, arXiv 2410.17897):
// values[i, :] = own * values[i, :] + first * first_values[i, :]
struct ValueMix {
  Rows values = {};
  ConstRows first_values = {};
  float own = 1;
  float first = 0;
};

// Operations on a layer's projections [num_rows] before attention, in this order.
struct Projections {
  // Query and key heads to rotate in place by the angles of positions[i]: the pair (x[j], x[j +
  // d/2]) turns by table angle j (the "rotate half" convention of Hugging Face's Llama). No
  // columns: no rotation. rope_table: [max_positions, d] = cos[d/2] then sin[d/2].
  Rows rotated = {};
  std::span<const int32_t> positions = {};  // [num_rows]
  const float* rope_table = nullptr;
  std::span<const ValueMix> mixes = {};
  // Row i of every write goes to token slots[i] % block_tokens of block slots[i] / block_tokens. A
  // row with slot kNoSlot pads a step (Backend::PaddedRows) and is not written.
  std::span<const PlaneWrite> writes = {};
  std::span<const int64_t> slots = {};  // [num_rows]
};

constexpr int64_t kNoSlot = -1;

// The rows of one sequence in a batch: row `first_row + i` is at position `first_position + i` and
// attends to positions [0, first_position + i]. The tables stay unchanged during the step: up to
// the next BeginStep(), ChooseTokens(), Synchronize() or CopyToHost().
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
  const int32_t* block_table = nullptr;  // block ids, host memory; covers every position read
  // Score blocks that cover every position read, private to the sequence: heads with a score_slot
  // write or read their scores there. Null: reused scores are computed again (routed). REQUIRES:
  // num_rows is 1 if not null.
  const int32_t* score_table = nullptr;
};

// One query head of the running layer. `query` belongs to the owner of the scores: the head itself
// or, if it reuses scores, a head of this layer or an earlier one (routing: same queries, same key
// plane, other values). A sequence with a score table is not routed: its scores are read instead.
struct HeadAttention {
  const float* query = nullptr;  // [num_rows, head_dim] after RoPE, `query_stride` floats apart
  int64_t query_stride = 0;
  size_t key_offset = 0;  // plane offsets in bytes into a block
  size_t value_offset = 0;
  // Null: the head computes its softmax. Else [num_rows], rows `lse_stride` apart: the owner's
  // log-sum-exp, and probabilities are exp(score - log_sum_exp).
  const float* reused_lse = nullptr;
  float* lse = nullptr;  // out, may be null: [num_rows], rows `lse_stride` apart
  int64_t lse_stride = 0;
  // Score slot to write (owner) or to read (with reused_lse); -1: none. Among a call's heads that
  // read one pair of planes, all read their scores or none does; some may write theirs and others
  // not.
  int32_t score_slot = -1;
  // Whether other layers of the step read the same plane: worth keeping in a cache.
  bool keys_again = false;
  bool values_again = false;
  float* output = nullptr;  // [num_rows, head_dim], rows `output_stride` floats apart
  int64_t output_stride = 0;
};

}  // namespace strata::kernels
