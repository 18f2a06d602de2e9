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

// Ids [0, num_blocks) and the count of holds on each. A block is
//
//   free ── Allocate ──► held ── last hold goes ──► free
//                         │ ▲                         ▲
//                    Keep │ │ Share                   │ Forget
//                         ▼ │                         │
//                   kept, held ── last hold goes ──► idle: nobody holds it, its content is kept
//
// Knows no bytes. Every operation is O(1) but CheckIntegrity. One thread.
class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool();  // REQUIRES: no block is held

  // nullopt when no block is free. Ids freed last are given first (their memory is warm).
  std::optional<BlockRef> Allocate();
  // Returns another hold on a held or idle block.
  BlockRef Share(int32_t id);
  // REQUIRES: held. From now on the block goes idle, not free, when its last hold goes.
  void Keep(int32_t id);
  // Undoes Keep: an idle block becomes free now, a held one when its last hold goes.
  void Forget(int32_t id);
  // The block that has been idle longest; -1 if none is idle.
  int32_t oldest_idle() const { return next_[Anchor()]; }

  int32_t num_blocks() const { return static_cast<int32_t>(counts_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_idle() const { return num_idle_; }
  int32_t num_held() const { return num_blocks() - num_free() - num_idle(); }
  int32_t count(int32_t id) const { return counts_[static_cast<size_t>(id)]; }
  bool kept(int32_t id) const { return kept_[static_cast<size_t>(id)]; }

  // INTERNAL naming a block on which lists, marks and counts disagree.
  absl::Status CheckIntegrity() const;

 private:
  friend class BlockRef;
  void Hold(int32_t id);
  void Release(int32_t id);
  void LinkIdle(int32_t id);
  void UnlinkIdle(int32_t id);
  size_t Anchor() const { return counts_.size(); }
  size_t Place(int32_t id) const { return id < 0 ? Anchor() : static_cast<size_t>(id); }

  std::vector<int32_t> counts_;
  std::vector<bool> kept_;
  std::vector<int32_t> free_;  // a stack
  // The idle blocks as a ring, oldest first; its anchor is the last element, written as -1.
  std::vector<int32_t> next_;
  std::vector<int32_t> previous_;
  int32_t num_idle_ = 0;
};

}  // namespace strata::kvcache
