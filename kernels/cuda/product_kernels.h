#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

// Products of rows with a matrix that do not use cuBLASLt: for few rows, and, where answers must
// not depend on the number of rows, for all.
//
// In 16 and 8 bits the inputs are cut into kSlices slices, by their number alone. A slice is one
// chain of mma instructions (16 outputs x 8 rows x 32 bytes of inputs) over its inputs in order;
// the slices' ends are added left to right. Which kernel computes a row, and beside which others,
// changes no bit.
namespace strata::kernels::cuda {

// Inputs of a matrix and of x are padded to a multiple of it with zeros.
constexpr int64_t kGroupBytes = 64;
// Outputs of a matrix are padded to a multiple of it.
constexpr int64_t kOutputGroup = 16;
constexpr int kSlices = 8;
constexpr int64_t kFewRows = 8;  // that one warp instruction takes

enum class Epilogue : uint8_t {
  kSet,
  kAdd,
  kGate,  // outputs are eight gates, then their eight ups, and so on: silu(gate) * up
};

struct Product {
  StoredRows weights;               // `stride` and the rows there are: multiples of the groups
  int64_t weight_rows = 0;          // [num_outputs] and padding
  const void* x = nullptr;          // [num_rows, weights.stride], of the weights' dtype
  const float* x_scales = nullptr;  // [num_rows], in 8 bits
  Rows out = {};                    // [num_rows, num_outputs or half of them]
  Epilogue epilogue = Epilogue::kSet;

  friend bool operator==(const Product&, const Product&) = default;
};

// 16 or 8 bits: reads the matrix once for up to kFewRows rows at a time.
void MultiplyFewRows(Stream& stream, const Product& product);
// 16 or 8 bits, any number of rows: the same bits.
void MultiplyManyRows(Stream& stream, const Product& product);
// What is left to do to sums that another library made: scales, gates, the way to `out`.
// sums: [num_rows, weight_rows], i32 where the weights are int8, else f32.
void FinishSums(Stream& stream, const Product& product, const void* sums);
// f32, any number of rows: a lane's chain over every 32nd group of 4 inputs, then the lanes.
void MultiplyF32(Stream& stream, const Product& product);

}  // namespace strata::kernels::cuda
