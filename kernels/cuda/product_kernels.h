#pragma once

#include <cstdint>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

// Products of rows with a matrix without cuBLASLt: for few rows, and for all rows if answers must
// not depend on their number.
//
// In 16 and 8 bits the inputs are cut into kSlices slices, by their number alone. A slice is one
// chain of mma instructions (16 outputs x 8 rows x 32 bytes of inputs) over its inputs in order;
// the slices' ends are added left to right. The choice of kernel for a row, and the other rows
// beside it, change no bit.
namespace strata::kernels::cuda {

// Inputs of a matrix and of x are padded with zeros to a multiple of kGroupBytes bytes.
constexpr int64_t kGroupBytes = 64;
// Outputs of a matrix are padded to a multiple of kOutputGroup.
constexpr int64_t kOutputGroup = 16;
constexpr int kSlices = 8;
constexpr int64_t kFewRows = 8;  // rows of one matrix instruction

enum class Epilogue : uint8_t {
  kSet,
  kAdd,
  kGate,  // outputs are eight gates, then their eight ups, and so on: silu(gate) * up
};

struct Product {
  StoredRows weights;               // `stride` and number of rows are multiples of the groups
  int64_t weight_rows = 0;          // [num_outputs] and padding
  const void* x = nullptr;          // [num_rows, weights.stride], of the weights' format
  const float* x_scales = nullptr;  // [num_rows], in 8 bits
  Rows out = {};                    // [num_rows, num_outputs or half of them]
  Epilogue epilogue = Epilogue::kSet;

  friend bool operator==(const Product&, const Product&) = default;
};

// 16 or 8 bits: reads the matrix once for up to kFewRows rows at a time.
void MultiplyFewRows(Stream& stream, const Product& product);
// 16 or 8 bits, any number of rows: the same bits.
void MultiplyManyRows(Stream& stream, const Product& product);
// Finishes the sums that another library made: applies scales and gates, and stores them in `out`.
// sums: [num_rows, weight_rows], i32 if the weights are int8, else f32.
void FinishSums(Stream& stream, const Product& product, const void* sums);
// f32, any number of rows: a lane's chain over every 32nd group of 4 inputs, then the lanes.
void MultiplyF32(Stream& stream, const Product& product);

}  // namespace strata::kernels::cuda
