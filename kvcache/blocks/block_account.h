#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kvcache/blocks/block_pool.h"

namespace strata::kvcache {

// A sequence's part of one account: blocks in position order, and a promise of more. Move-only: its
// destruction gives both back.
class BlockHolding {
 public:
  BlockHolding() = default;
  BlockHolding(BlockHolding&& other) noexcept { *this = std::move(other); }
  BlockHolding& operator=(BlockHolding&& other) noexcept;
  ~BlockHolding() { Clear(); }

  void Clear();
  std::span<const int32_t> ids() const { return ids_; }  // flat, for kernels
  int32_t size() const { return static_cast<int32_t>(ids_.size()); }
  int32_t reserved() const { return reserved_; }  // promised and not drawn yet
  const BlockRef& operator[](size_t i) const { return blocks_[i]; }

  void Append(BlockRef block);
  void Replace(size_t i, BlockRef block);

 private:
  friend class BlockAccount;
  std::vector<BlockRef> blocks_;
  std::vector<int32_t> ids_;     // the same blocks
  int32_t reserved_ = 0;         // counted in *promised_
  int32_t* promised_ = nullptr;  // the account's; null: nothing was ever promised
};

// A pool of blocks and the number of them promised to holdings. One thread.
class BlockAccount {
 public:
  explicit BlockAccount(int32_t num_blocks) : pool_(num_blocks) {}

  BlockPool& pool() { return pool_; }
  const BlockPool& pool() const { return pool_; }

  // Blocks that can be drawn without a promise.
  int32_t available() const { return pool_.num_free() + pool_.num_idle() - promised_; }
  // REQUIRES: 0 <= blocks <= available().
  void Promise(BlockHolding& holding, int32_t blocks);
  // Moves `blocks` of the promise of `from` to `to`. REQUIRES: `from` has as many promised.
  void MovePromise(BlockHolding& from, BlockHolding& to, int32_t blocks);
  // Gives up promised blocks that are not drawn, beyond the first `blocks`.
  void TrimPromise(BlockHolding& holding, int32_t blocks);
  // Grows the holding to `num_blocks`, out of its promise first. If only idle blocks are left,
  // calls `evict` to make one free. Returns false and changes nothing if too few are available.
  bool Grow(BlockHolding& holding, int32_t num_blocks, absl::FunctionRef<void()> evict);

  // INTERNAL unless the pool is sound, the blocks of `holdings` and no others are held, and their
  // promises add up to the account's.
  absl::Status CheckIntegrity(std::span<const BlockHolding* const> holdings) const;

 private:
  BlockPool pool_;
  int32_t promised_ = 0;  // blocks, over all holdings
};

}  // namespace strata::kvcache
