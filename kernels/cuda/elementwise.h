#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention_types.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

// Operations on rows. Pointers are the device's; every row is computed from itself alone, in an
// order of its own.
namespace strata::kernels::cuda {

// A matrix on the device: rows of num_inputs numbers, `stride` apart, the rest zeros.
struct StoredRows {
  const void* data = nullptr;
  const float* scales = nullptr;  // of each row, in 8 bits
  MatrixFormat format = MatrixFormat::kF32;
  int64_t num_inputs = 0;
  int64_t stride = 0;

  friend bool operator==(const StoredRows&, const StoredRows&) = default;
};

// out[i, :] = table[row of ids[i], :], of chosen[~ids[i]] if the id is below 0. In a gated table id
// j is a gate below num_gates, else an up.
void EmbedRows(Stream& stream, const StoredRows& table, int64_t num_gates, const int32_t* ids,
               const int32_t* chosen, Rows out);

// Prepares a product's input: x, normalised unless `weight` is null, as `format` in rows of
// `stride` numbers, the rest of a row zeros; in 8 bits `scales`, [num_rows], are written too.
void PrepareInputs(Stream& stream, ConstRows x, const float* weight, float epsilon,
                   MatrixFormat format, int64_t stride, void* out, float* scales);

// out[i, :] = x[rows[i], :]; `in_place`: out overlaps x, and rows ascend.
void Gather(Stream& stream, ConstRows x, const int32_t* rows, Rows out, bool in_place);

// A list of ways and the rest of a PrepareAttention, with the device's lists.
constexpr int kMaxWays = 64;
struct ProjectionArgs {
  HeadWay ways[kMaxWays];
  int32_t num_ways = 0;
  int64_t num_rows = 0;
  const int32_t* positions = nullptr;  // [num_rows]
  const int64_t* slots = nullptr;      // [block groups][num_rows], below 0: nothing is written
  // The cache, for ways that write.
  std::byte* arena = nullptr;
  size_t place_bytes = 0;
  int32_t block_tokens = 1;
  PlaneFormat key_format = PlaneFormat::kF32;
  PlaneFormat value_format = PlaneFormat::kF32;

  friend bool operator==(const ProjectionArgs&, const ProjectionArgs&) = default;
};
void RunWays(Stream& stream, const ProjectionArgs& args);

}  // namespace strata::kernels::cuda
