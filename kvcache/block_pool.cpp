#include "kvcache/block_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace strata::kvcache {

BlockRef::BlockRef(const BlockRef& other) : pool_(other.pool_), id_(other.id_) {
  if (pool_ != nullptr) pool_->Hold(id_);
}

BlockRef::BlockRef(BlockRef&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), id_(std::exchange(other.id_, -1)) {}

BlockRef& BlockRef::operator=(BlockRef other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(id_, other.id_);
  return *this;
}

BlockRef::~BlockRef() {
  if (pool_ != nullptr) pool_->Release(id_);
}

int32_t BlockRef::id() const {
  STRATA_CHECK(pool_ != nullptr, "a hold on a block");
  return id_;
}

BlockPool::BlockPool(int32_t num_blocks) {
  STRATA_CHECK(num_blocks >= 0, "a number of blocks");
  counts_.resize(static_cast<size_t>(num_blocks));
  free_.reserve(counts_.size());
  for (int32_t id = num_blocks - 1; id >= 0; --id) free_.push_back(id);
}

BlockPool::~BlockPool() {
  STRATA_CHECK(free_.size() == counts_.size(), "every block is back before its pool goes");
}

std::optional<BlockRef> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t id = free_.back();
  free_.pop_back();
  STRATA_CHECK(count(id) == 0, "nobody holds a free block");
  Hold(id);
  return BlockRef(this, id);
}

void BlockPool::Hold(int32_t id) { ++counts_[static_cast<size_t>(id)]; }

void BlockPool::Release(int32_t id) {
  int32_t& count = counts_[static_cast<size_t>(id)];
  STRATA_CHECK(count > 0, "only a held block is given back");
  if (--count == 0) free_.push_back(id);
}

absl::Status BlockPool::CheckIntegrity() const {
  std::vector<bool> is_free(counts_.size());
  for (int32_t id : free_) {
    if (id < 0 || id >= num_blocks()) {
      return absl::InternalError(absl::StrCat("block ", id, " is free but does not exist"));
    }
    if (is_free[static_cast<size_t>(id)]) {
      return absl::InternalError(absl::StrCat("block ", id, " is free twice"));
    }
    is_free[static_cast<size_t>(id)] = true;
  }
  for (int32_t id = 0; id < num_blocks(); ++id) {
    if (count(id) < 0 || is_free[static_cast<size_t>(id)] != (count(id) == 0)) {
      return absl::InternalError(absl::StrCat("block ", id, " is ",
                                              is_free[static_cast<size_t>(id)] ? "" : "not ",
                                              "in the free list and held ", count(id), " times"));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
