#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/attention_types.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// Formats of keys and of values, chosen separately.
struct CacheFormats {
  kernels::PlaneFormat keys = kernels::PlaneFormat::kF32;
  kernels::PlaneFormat values = kernels::PlaneFormat::kF32;

  static constexpr CacheFormats Both(kernels::PlaneFormat format) { return {format, format}; }
};

// One plane: the keys or the values of one kv head of one layer, [block_tokens, head_dim] in every
// block, `offset` bytes after the block's start.
struct Plane {
  kernels::PlaneKind kind = kernels::PlaneKind::kKey;
  HeadRef head;  // kv head
  size_t offset = 0;
};

// Maps a plan to bytes. Only this class knows the size of a token's cache entry; pool, admission,
// metrics and kernels all take the size from here. Immutable.
class PlaneMap {
 public:
  PlaneMap(const SharingPlan& plan, CacheFormats formats, int32_t block_tokens);

  // Planes in offset order; the planes of one reading layer are next to each other.
  const std::vector<Plane>& planes() const { return planes_; }
  // REQUIRES: the plan has that plane.
  kernels::PlaneRef KeyPlane(HeadRef kv_head) const;
  kernels::PlaneRef ValuePlane(HeadRef kv_head) const;

  CacheFormats formats() const { return formats_; }
  int32_t block_tokens() const { return block_tokens_; }
  int32_t head_dim() const { return shape_.head_dim; }
  size_t block_bytes() const;      // block_tokens * bytes_per_token
  size_t bytes_per_token() const;  // key_bytes_per_token + value_bytes_per_token, scales included
  size_t key_bytes_per_token() const;
  size_t value_bytes_per_token() const;
  size_t plain_bytes_per_token() const;  // of L * G key planes and as many value planes
  // Bytes of stored scores beside the planes: S f32 logits a context token.
  size_t score_bytes_per_token() const;
  int32_t score_slots() const { return stored_score_heads_; }  // S
  size_t score_block_bytes() const;                            // of block_tokens tokens
  // Whether a decode step moves fewer bytes when it keeps scores than when it computes them again.
  // It does not if all query heads together read one narrow key plane, or if no score is reused.
  bool storing_scores_pays() const { return storing_scores_pays_; }

 private:
  // Bytes of a token in one plane.
  size_t key_token_bytes() const { return kernels::PlaneTokenBytes(formats_.keys, head_dim()); }
  size_t value_token_bytes() const { return kernels::PlaneTokenBytes(formats_.values, head_dim()); }

  AttentionShape shape_;
  CacheFormats formats_;
  int32_t block_tokens_;
  std::vector<Plane> planes_;
  std::vector<std::optional<size_t>> key_offsets_;    // [layer * G + kv head]
  std::vector<std::optional<size_t>> value_offsets_;  // [layer * G + kv head]
  int32_t num_key_planes_ = 0;
  int32_t stored_score_heads_ = 0;
  bool storing_scores_pays_ = false;
};

}  // namespace strata::kvcache
