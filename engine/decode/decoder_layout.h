#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "engine/model/model_spec.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// Floats from one row of logits to the next in a device's memory: rows of whole 16 bytes, even for
// an odd vocabulary, as the device's libraries need for fast products.
constexpr int64_t LogitsStride(int64_t vocab_size) { return (vocab_size + 3) / 4 * 4; }

// Origin of a query head's output in its column of the attention output.
enum class HeadWork : uint8_t {
  kOwn,      // the head computes its softmax
  kReuse,    // the head applies another head's probabilities
  kInPlace,  // the column already holds the output
  kCopy,     // the output is copied from an earlier head, in another column
};

// The work of a plan's layers, and its memory: everything that a decoder decides without a backend.
// The memory estimate and the allocation both use this list.
struct DecoderLayout {
  struct Layer {
    std::vector<int32_t> query_heads;  // living heads, in head order
    std::vector<int32_t> key_heads;
    std::vector<int32_t> value_heads;
    std::vector<HeadWork> work;  // [query head]
    size_t last_use = 0;         // the last layer that reads its projections
    size_t projections = 0;      // row buffer of the projections, [q + k + v heads][d], then [q]

    // Whether the head reads planes.
    bool Attends(size_t head) const {
      return work[head] == HeadWork::kOwn || work[head] == HeadWork::kReuse;
    }
  };

  // Row buffers by their index in row_columns; the buffers of projections, all of one width, come
  // last.
  enum RowBuffer : size_t { kResidual, kAttended, kActivated, kKept, kFirstProjections };

  std::vector<Layer> layers;
  // Slots in kKept of outputs that a later layer copies into another column.
  std::map<kvcache::HeadRef, int32_t> kept_slots;
  std::vector<int64_t> row_columns;  // f32 numbers of a row, of each buffer; 0: no buffer
  int64_t rope_floats = 0;           // of the table

  // Rows start on a cache line.
  static int64_t RowStride(int64_t num_cols) { return (num_cols + 15) / 16 * 16; }
  // Bytes of all buffers of `rows` rows and of the table.
  size_t Bytes(int64_t rows) const;
};
DecoderLayout LayoutOf(const ModelSpec& spec, const kvcache::SharingPlan& plan);

}  // namespace strata::engine
