#pragma once

#include <map>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "engine/decoder.h"

namespace strata::engine {

// Turns a sharing plan into the decoder's layers: which heads run and how, how long each layer's
// projections must be kept for later layers, and every pointer and offset the kernels are given.
class Decoder::Builder {
 public:
  Builder(const kvcache::SharingPlan& plan, const kvcache::PlaneMap& planes, Decoder* decoder);

  absl::Status Build();

 private:
  enum class HeadWork {
    kOwn,      // computes its softmax
    kReuse,    // applies another head's probabilities
    kInPlace,  // its column of the attention output already holds its output
    kCopy,     // takes the output of an earlier head, in another column
  };

  void ChooseWork();
  void ChooseKeptOutputs();
  void ChooseLifetimes();
  absl::Status AllocateScratch();
  absl::Status MakeRopeTable();
  absl::Status AllocateProjections();
  void ResolveMixes(size_t layer);
  void ResolveWrites(size_t layer);
  void ResolveAttention(size_t layer);
  void ResolveCopies(size_t layer);
  void ResolveKeptRows();

  absl::StatusOr<float*> Allocate(int64_t num_floats);
  absl::StatusOr<kernels::Rows> AllocateRows(int64_t num_cols);
  // Where a head of the layer stands among its living heads, times d.
  kernels::Rows QueryColumns(kvcache::HeadRef query_head) const;
  kernels::Rows KeyColumns(kvcache::HeadRef kv_head) const;
  kernels::Rows ValueColumns(kvcache::HeadRef kv_head) const;
  float* LogSumExp(kvcache::HeadRef query_head) const;
  kernels::Rows OutputColumns(int32_t head) const;
  // The planes, of keys or of values, that heads of more than one layer read.
  std::set<kvcache::HeadRef> ReadAgain(kvcache::HeadRef kvcache::HeadSources::*kind) const;
  // Whether the head reads planes.
  bool Attends(size_t layer, size_t head) const;

  const kvcache::SharingPlan& plan_;
  const kvcache::PlaneMap& planes_;
  Decoder* const decoder_;
  const int64_t head_dim_;
  const size_t num_layers_;

  std::vector<std::vector<int32_t>> query_heads_;  // [layer]: living heads, in head order
  std::vector<std::vector<int32_t>> key_heads_;
  std::vector<std::vector<int32_t>> value_heads_;
  std::vector<std::vector<HeadWork>> work_;  // [layer][query head]
  std::set<kvcache::HeadRef> keys_again_;
  std::set<kvcache::HeadRef> values_again_;
  std::vector<size_t> last_use_;            // [layer]: last layer that reads its projections
  std::vector<kernels::Rows> log_sum_exp_;  // [layer]: [max_rows, living query heads]
  std::vector<kernels::Rows> buffers_;      // [layer]: the whole that its projections are part of
  // Outputs that a later layer takes into another column, and where they are kept till then.
  std::map<kvcache::HeadRef, int32_t> kept_slots_;
  int32_t num_kept_slots_ = 0;
  kernels::Rows kept_;  // [max_rows, num_kept_slots * d]
};

}  // namespace strata::engine
