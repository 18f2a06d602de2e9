#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "engine/model/model_config.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// Floats from one row of logits to the next in a device's memory: rows of whole 16 bytes, which its
// libraries need for their fast products, though a vocabulary be odd.
constexpr int64_t LogitsStride(int64_t vocab_size) { return (vocab_size + 3) / 4 * 4; }

// How a query head's column of the attention output gets its output.
enum class HeadWork : uint8_t {
  kOwn,      // the head computes its softmax
  kReuse,    // it applies another head's probabilities
  kInPlace,  // the column holds it already
  kCopy,     // it is taken from an earlier head, in another column
};

// What runs in the layers of a plan, and in which memory: everything that a decoder decides before
// there is a backend. Whoever asks what it will take and whoever takes it read the same list.
struct DecoderLayout {
  struct Layer {
    std::vector<int32_t> query_heads;  // living heads, in head order
    std::vector<int32_t> key_heads;
    std::vector<int32_t> value_heads;
    std::vector<HeadWork> work;  // [query head]
    size_t last_use = 0;         // the last layer that reads its projections
    size_t projections = 0;      // the row buffer they stand in, [q + k + v heads][d], then [q]

    // Whether the head reads planes.
    bool Attends(size_t head) const {
      return work[head] == HeadWork::kOwn || work[head] == HeadWork::kReuse;
    }
  };

  // Buffers of rows, by their place in row_columns; those of projections, of one width, come last.
  enum RowBuffer : size_t { kResidual, kAttended, kActivated, kKept, kFirstProjections };

  std::vector<Layer> layers;
  // Outputs that a later layer takes into another column, and where in kKept they are till then.
  std::map<kvcache::HeadRef, int32_t> kept_slots;
  std::vector<int64_t> row_columns;  // f32 numbers of a row, of each buffer; 0: there is none
  int64_t rope_floats = 0;           // of the table

  // Rows start on a cache line.
  static int64_t RowStride(int64_t num_cols) { return (num_cols + 15) / 16 * 16; }
  // Of all buffers of `rows` rows, and of the table.
  size_t Bytes(int64_t rows) const;
};
DecoderLayout LayoutOf(const ModelConfig& config, const kvcache::SharingPlan& plan);

}  // namespace strata::engine
