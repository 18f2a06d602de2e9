#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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

// Byte offset of a block's scales inside an 8-bit plane.
constexpr size_t ScalesOffset(int32_t block_tokens, int32_t head_dim) {
  return static_cast<size_t>(block_tokens) *
         (PlaneTokenBytes(PlaneFormat::kI8, head_dim) - sizeof(float));
}

// The paged cache as kernels see it. Block tables list places; place p is at `arena + p *
// place_bytes`. Planes form block groups, each with a block table of its own for every sequence: a
// block of a group begins at its place and has `block_tokens` tokens in every plane of the group. A
// plane holds [block_tokens, head_dim] elements of its format at a byte offset inside every block;
// head_dim may differ from plane to plane. The order of the elements inside a plane is the
// backend's own affair (the CPU keeps keys transposed). In 8 bits the block's scales,
// [block_tokens], are the plane's last bytes.
//
// Score blocks, apart from the planes, hold the scores that a decode step keeps for later layers:
// score block b starts at `scores + b * score_slots * block_tokens` and holds
// [score_slots][block_tokens] of query . key / sqrt(head_dim).
struct PagedArena {
  std::byte* arena = nullptr;
  size_t place_bytes = 0;
  int32_t block_tokens = 0;
  int32_t block_groups = 1;
  PlaneFormat key_format = PlaneFormat::kF32;
  PlaneFormat value_format = PlaneFormat::kF32;
  float* scores = nullptr;
  int32_t score_slots = 0;

  PlaneFormat format(PlaneKind kind) const {
    return kind == PlaneKind::kKey ? key_format : value_format;
  }
  size_t TokenBytes(PlaneKind kind, int32_t head_dim) const {
    return PlaneTokenBytes(format(kind), head_dim);
  }
};

// A plane: the keys or the values of one kv head of one layer.
struct PlaneRef {
  int32_t block_group = 0;  // index of its block table in SequenceRows
  size_t offset = 0;        // bytes into each of the group's blocks

  friend bool operator==(const PlaneRef&, const PlaneRef&) = default;
};

// The way of one head of a projection from the product into the cache: the steps that it asks for,
// in this order, in place.
struct HeadWay {
  float* data = nullptr;  // [num_rows, head_dim], rows `stride` floats apart
  int64_t stride = 0;
  int32_t head_dim = 0;
  const float* bias = nullptr;  // [head_dim], added; null: none
  RmsNorm norm = {};            // over the head's elements
  // Elements to rotate, from the head's first; 0: none. The pair (x[j], x[j + rotated/2]) turns by
  // angle j of the row's position (the "rotate half" convention of Hugging Face's Llama).
  // rope_table: [max_positions, rotated] = cos[rotated/2] then sin[rotated/2].
  int32_t rotated = 0;
  const float* rope_table = nullptr;
  // ResFormer (arXiv 2410.17897): x = own * x + first * first_values. Null: no mix.
  const float* first_values = nullptr;  // [num_rows, head_dim], rows `first_stride` floats apart
  int64_t first_stride = 0;
  float own = 1;
  float first = 0;
  bool is_written = false;  // to `plane`
  PlaneKind kind = PlaneKind::kKey;
  PlaneRef plane = {};

  friend bool operator==(const HeadWay&, const HeadWay&) = default;
};

// A layer's projections before attention. No way reads or writes another's data, but for
// first_values, which no way changes.
struct Projections {
  int64_t num_rows = 0;
  std::span<const HeadWay> ways = {};
  std::span<const int32_t> positions = {};  // [num_rows]; read if a way rotates
  // [block groups][num_rows]; read if a way writes. In block group g row i goes to token s %
  // block_tokens of the block at place s / block_tokens, s = slots[g * num_rows + i]. A row with
  // slot kNoSlot pads a step (Backend::PaddedRows) and is not written.
  std::span<const int64_t> slots = {};

  std::span<const int64_t> SlotsOf(const PlaneRef& plane) const {
    const auto rows = static_cast<size_t>(num_rows);
    return slots.subspan(static_cast<size_t>(plane.block_group) * rows, rows);
  }
};

constexpr int64_t kNoSlot = -1;

// The rows of one sequence in a batch: row `first_row + i` is at position `first_position + i` and
// attends to positions [0, first_position + i]. The tables stay unchanged during the step: up to
// the next BeginStep(), ChooseTokens(), Synchronize() or CopyToHost().
struct SequenceRows {
  int64_t first_row = 0;
  int64_t num_rows = 0;
  int64_t first_position = 0;
  // [block groups] tables: places of blocks, host memory; covers every position read.
  const int32_t* const* block_tables = nullptr;
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
  // Null: the head computes its softmax. Else [num_rows], rows `lse_stride` apart: the owner's
  // log-sum-exp, and probabilities are exp(score - log_sum_exp).
  const float* reused_lse = nullptr;
  float* lse = nullptr;  // out, may be null: [num_rows], rows `lse_stride` apart
  int64_t lse_stride = 0;
  // Score slot to write (owner) or to read (with reused_lse); -1: none.
  int32_t score_slot = -1;
  float* output = nullptr;  // [num_rows, head_dim], rows `output_stride` floats apart
  int64_t output_stride = 0;
};

// The query heads of a layer that read one pair of planes, so that the planes are read once. All of
// them compute their scores, some of them keeping them, or all of them reuse scores.
struct PlaneGroup {
  PlaneRef keys = {};
  PlaneRef values = {};
  int32_t head_dim = 0;
  // Whether other layers of the step read the same plane: worth keeping in a cache.
  bool keys_again = false;
  bool values_again = false;
  std::vector<HeadAttention> heads = {};  // not empty

  // Whether the group reads scores of `sequence` that were computed and stored earlier in the step.
  bool FindsScores(const SequenceRows& sequence) const {
    return sequence.score_table != nullptr && heads[0].reused_lse != nullptr &&
           heads[0].score_slot >= 0;
  }
};

}  // namespace strata::kernels
