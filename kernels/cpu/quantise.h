#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/int8_tile.h"
#include "kernels/tensor.h"

namespace strata::kernels {

// To 8 bits and back: q = round to nearest even (value / scale), in [-127, 127], value ~ q * scale.
// Weights have a scale for each output, activations one for each row and block of 256 inputs.

// Quantises the weights of one output in steps of max|w| / 127 and returns this scale. The scale is
// 0 if all weights are zero (or max|w| is so small that the scale rounds to 0), NaN if one is NaN
// or infinite; q is then 0. Group g of four goes to `to` + g * 128, q + 128 to a byte.
// w: [num_inputs], followed by zeros up to a multiple of 4, which are quantised too.
float QuantiseOutput(const float* w, size_t num_inputs, uint8_t* to);

// A product's left side in 8 bits, in borrowed memory, cut into tiles and blocks like the f32 left
// side: values are consecutive [rows of the tile][256] for each block of each tile, as
// Int8Kernel::widened says.
struct QuantisedRows {
  std::byte* values = nullptr;  // 0 from the last input up to a multiple of 4
  size_t value_bytes = 0;
  int32_t* starts = nullptr;  // [blocks][num_rows]: -128 * the sum of the row's values in the block
  float* scales = nullptr;    // [blocks][num_rows]
  int64_t num_rows = 0;

  // In() divides Floats(num_rows, num_cols) floats at `memory` (64-byte aligned) into these arrays.
  static size_t Floats(int64_t num_rows, int64_t num_cols, bool widened);
  static QuantisedRows In(float* memory, int64_t num_rows, int64_t num_cols, bool widened);
};

// Quantises up to 256 inputs of a row to `values`, with zeros up to a multiple of 4, and returns
// their scale. `values` has room for 256, whatever `count`: whole vectors are written. `values`
// gets i16, groups of four in the order 0, 2, 1, 3, if `widened`, else i8; `start`: -128 * the sum
// of the values. The step is max|x| / 127 and q is the nearest even of x * (127 / max|x|), rounded
// once. If max|x| is below 2^-100 all inputs count as zeros. NaN or infinity among them makes the
// scale NaN and so the row's every output. The same bits on every instruction set.
float QuantiseInputs(const float* x, size_t count, bool widened, void* values, int32_t* start);

}  // namespace strata::kernels
