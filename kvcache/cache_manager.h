#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvcache/block_pool.h"
#include "kvcache/plane_map.h"

namespace strata::kvcache {

// The blocks of one sequence in position order. Move-only: its blocks go back when it does.
class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(BlockTable&&) noexcept = default;
  BlockTable& operator=(BlockTable&&) noexcept = default;

  std::span<const int32_t> ids() const { return ids_; }
  int32_t num_blocks() const { return static_cast<int32_t>(ids_.size()); }

 private:
  friend class CacheManager;
  std::vector<BlockRef> blocks_;
  std::vector<int32_t> ids_;  // the same blocks, flat for kernels
};

struct CacheOptions {
  size_t cache_bytes = size_t{64} << 20;  // whole budget, keys, values and scores
  int32_t block_tokens = 16;
  kernels::DType dtype = kernels::DType::kF32;
};

struct CacheUsage {
  int32_t blocks_total = 0;
  int32_t blocks_used = 0;
  size_t key_bytes_used = 0;    // blocks_used in bytes of their key planes
  size_t value_bytes_used = 0;  // and of their value planes
};

// The arena, its pool of blocks, and the arithmetic of admission. Owned and called by the engine
// thread alone. The scheduler grows a sequence's table to its worst case when it admits it, so that
// a running sequence never waits for a block.
class CacheManager {
 public:
  // INVALID_ARGUMENT naming the budget and the size of a block when not even one block fits;
  // RESOURCE_EXHAUSTED when the memory cannot be had. `backend` outlives the manager.
  static absl::StatusOr<std::unique_ptr<CacheManager>> Create(kernels::Backend* backend,
                                                              const SharingPlan& plan,
                                                              const CacheOptions& options);

  int32_t BlocksFor(int64_t num_tokens) const;
  int64_t capacity_tokens() const;  // blocks_total * block_tokens
  // Grows `table` until it covers positions [0, num_tokens). False, and nothing changed, when the
  // pool is too empty.
  bool Grow(BlockTable& table, int64_t num_tokens);
  // Where the token at `position` is written: block id * block_tokens + place in the block.
  int64_t Slot(const BlockTable& table, int64_t position) const;

  const PlaneMap& planes() const { return planes_; }
  kernels::PagedArena arena() const;
  size_t arena_bytes() const;
  int32_t blocks_free() const { return pool_.num_free(); }
  CacheUsage usage() const;

  // The pool's own invariants, and that exactly the blocks of `tables` are in use.
  absl::Status CheckIntegrity(std::span<const BlockTable* const> tables) const;

 private:
  CacheManager(PlaneMap planes, int32_t num_blocks, std::unique_ptr<kernels::Buffer> arena);

  PlaneMap planes_;
  std::unique_ptr<kernels::Buffer> arena_;
  BlockPool pool_;
};

}  // namespace strata::kvcache
