#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"

namespace strata::kvcache {

class BlockPool;

// A counted hold on one block. Copying takes another hold, destruction gives it back: the only
// place where a count goes up or down. Not thread-safe; lives no longer than its pool.
class BlockRef {
 public:
  BlockRef() = default;
  BlockRef(const BlockRef& other);
  BlockRef(BlockRef&& other) noexcept;
  BlockRef& operator=(BlockRef other) noexcept;
  ~BlockRef();

  // REQUIRES: not moved from.
  int32_t id() const;
  explicit operator bool() const { return pool_ != nullptr; }

 private:
  friend class BlockPool;
  BlockRef(BlockPool* pool, int32_t id) : pool_(pool), id_(id) {}

  BlockPool* pool_ = nullptr;
  int32_t id_ = -1;
};

// Ids [0, num_blocks) and how many hold each. Knows no bytes. One thread.
class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();  // every block must have come back

  // nullopt when no block is free. Ids freed last are given first (their memory is warm).
  std::optional<BlockRef> Allocate();

  int32_t num_blocks() const { return static_cast<int32_t>(counts_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_used() const { return num_blocks() - num_free(); }
  int32_t count(int32_t id) const { return counts_[static_cast<size_t>(id)]; }

  // INTERNAL naming the block where the free list and the counts disagree.
  absl::Status CheckIntegrity() const;

 private:
  friend class BlockRef;
  void Hold(int32_t id);
  void Release(int32_t id);

  std::vector<int32_t> counts_;
  std::vector<int32_t> free_;  // a stack
};

}  // namespace strata::kvcache
