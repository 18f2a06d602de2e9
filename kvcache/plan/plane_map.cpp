#include "kvcache/plan/plane_map.h"

#include <set>

#include "kernels/check.h"

namespace strata::kvcache {
namespace {

size_t IndexOf(const AttentionShape& shape, HeadRef kv_head) {
  STRATA_CHECK(kv_head.layer >= 0 && kv_head.layer < shape.num_layers, "a layer of the plan");
  STRATA_CHECK(kv_head.head >= 0 && kv_head.head < shape.num_kv_heads, "a kv head of the plan");
  return static_cast<size_t>(kv_head.layer) * static_cast<size_t>(shape.num_kv_heads) +
         static_cast<size_t>(kv_head.head);
}

// Bytes a context token of the key planes that reusing heads read when scores are computed again.
size_t RoutedBytes(const SharingPlan& plan, size_t plane_row_bytes) {
  const AttentionShape& shape = plan.shape();
  size_t rows = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    std::set<HeadRef> planes;
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      if (plan.Run(layer, head) != HeadRun::kReuseScores) continue;
      planes.insert(plan.sources(layer, head).keys);
    }
    rows += planes.size();
  }
  return rows * plane_row_bytes;
}

// Bytes a context token of stored scores: one read for each head that reuses them, one write for
// each owner with a slot. A write moves its line from memory and back, so it counts twice.
size_t StoredBytes(const SharingPlan& plan) {
  const AttentionShape& shape = plan.shape();
  size_t scores = 0;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      if (plan.Run(layer, head) == HeadRun::kReuseScores) scores += 1;
      if (plan.ScoreSlot(layer, head) >= 0) scores += 2;
    }
  }
  return scores * sizeof(float);
}

}  // namespace

PlaneMap::PlaneMap(const SharingPlan& plan, CacheFormats formats, int32_t block_tokens)
    : shape_(plan.shape()),
      formats_(formats),
      block_tokens_(block_tokens),
      stored_score_heads_(plan.StoredScoreHeads()) {
  STRATA_CHECK(block_tokens > 0, "a block holds tokens");
  const size_t num_heads =
      static_cast<size_t>(shape_.num_layers) * static_cast<size_t>(shape_.num_kv_heads);
  key_offsets_.resize(num_heads);
  value_offsets_.resize(num_heads);
  const auto append = [&](kernels::PlaneKind kind, HeadRef head) {
    const size_t offset = block_bytes();
    planes_.push_back({.kind = kind, .head = head, .offset = offset});
    const bool is_key = kind == kernels::PlaneKind::kKey;
    (is_key ? key_offsets_ : value_offsets_)[IndexOf(shape_, head)] = offset;
    if (is_key) ++num_key_planes_;
  };
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    for (int32_t head : plan.KeyHeads(layer)) {
      append(kernels::PlaneKind::kKey, {layer, head});
    }
    for (int32_t head : plan.ValuePlaneHeads(layer)) {
      append(kernels::PlaneKind::kValue, {layer, head});
    }
  }
  storing_scores_pays_ = StoredBytes(plan) < RoutedBytes(plan, key_token_bytes());
}

kernels::PlaneRef PlaneMap::KeyPlane(HeadRef kv_head) const {
  const std::optional<size_t>& offset = key_offsets_[IndexOf(shape_, kv_head)];
  STRATA_CHECK(offset.has_value(), "the plan has that key plane");
  return {.offset = *offset};
}

kernels::PlaneRef PlaneMap::ValuePlane(HeadRef kv_head) const {
  const std::optional<size_t>& offset = value_offsets_[IndexOf(shape_, kv_head)];
  STRATA_CHECK(offset.has_value(), "the plan has that value plane");
  return {.offset = *offset};
}

size_t PlaneMap::block_bytes() const {
  return static_cast<size_t>(block_tokens_) * bytes_per_token();
}

size_t PlaneMap::bytes_per_token() const { return key_bytes_per_token() + value_bytes_per_token(); }

size_t PlaneMap::key_bytes_per_token() const {
  return static_cast<size_t>(num_key_planes_) * key_token_bytes();
}

size_t PlaneMap::value_bytes_per_token() const {
  return (planes_.size() - static_cast<size_t>(num_key_planes_)) * value_token_bytes();
}

size_t PlaneMap::plain_bytes_per_token() const {
  return static_cast<size_t>(shape_.num_layers) * static_cast<size_t>(shape_.num_kv_heads) *
         (key_token_bytes() + value_token_bytes());
}

size_t PlaneMap::score_bytes_per_token() const {
  return static_cast<size_t>(stored_score_heads_) * sizeof(float);
}

size_t PlaneMap::score_block_bytes() const {
  return static_cast<size_t>(block_tokens_) * score_bytes_per_token();
}

}  // namespace strata::kvcache
