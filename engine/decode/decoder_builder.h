#pragma once

#include <set>
#include <vector>

#include "absl/status/status.h"
#include "engine/decode/decoder.h"
#include "engine/decode/decoder_layout.h"

namespace strata::engine {

// Turns a plan and its layout into the decoder's layers: their buffers, and every pointer and
// offset for the kernels.
class Decoder::Builder {
 public:
  Builder(const kvcache::SharingPlan& plan, const DecoderLayout& layout,
          const kvcache::PlaneMap& planes, Decoder* decoder);

  absl::Status Build();

 private:
  absl::Status AllocateRows();
  absl::Status MakeRopeTable();
  void PlaceProjections(size_t layer);
  void ResolveWays(size_t layer);
  kernels::PlaneGroup& GroupOf(const kvcache::HeadSources& sources,
                               std::vector<kernels::PlaneGroup>& groups) const;
  void ResolveAttention(size_t layer);
  void ResolveCopies(size_t layer);
  void ResolveKeptRows();

  absl::StatusOr<float*> Allocate(int64_t num_floats);
  // Columns of a head among the living heads of its layer.
  kernels::Rows QueryColumns(kvcache::HeadRef query_head) const;
  kernels::Rows KeyColumns(kvcache::HeadRef kv_head) const;
  kernels::Rows ValueColumns(kvcache::HeadRef kv_head) const;
  float* LogSumExp(kvcache::HeadRef query_head) const;
  kernels::Rows OutputColumns(int32_t head) const;
  // The planes, of keys or of values, that heads of more than one layer read.
  std::set<kvcache::HeadRef> ReadAgain(kvcache::HeadRef kvcache::HeadSources::*kind) const;

  const kvcache::SharingPlan& plan_;
  const DecoderLayout& layout_;
  const kvcache::PlaneMap& planes_;
  Decoder* const decoder_;
  const int64_t head_dim_;
  const std::set<kvcache::HeadRef> keys_again_;
  const std::set<kvcache::HeadRef> values_again_;
  std::vector<kernels::Rows> rows_;         // the layout's buffers
  std::vector<kernels::Rows> log_sum_exp_;  // [layer]: [max_rows, living query heads]
};

}  // namespace strata::engine
