#include "kvcache/blocks/block_pool.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/status_macros.h"

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
  kept_.resize(counts_.size());
  next_.assign(counts_.size() + 1, -1);
  previous_.assign(counts_.size() + 1, -1);
}

BlockPool::~BlockPool() {
  STRATA_CHECK(num_held() == 0, "every block is back before its pool goes");
}

std::optional<BlockRef> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t id = free_.back();
  free_.pop_back();
  STRATA_CHECK(count(id) == 0, "nobody holds a free block");
  Hold(id);
  return BlockRef(this, id);
}

BlockRef BlockPool::Share(int32_t id) {
  STRATA_CHECK(count(id) > 0 || kept(id), "a held or idle block");
  if (count(id) == 0) UnlinkIdle(id);
  Hold(id);
  return BlockRef(this, id);
}

void BlockPool::Keep(int32_t id) {
  STRATA_CHECK(count(id) > 0, "only a held block is kept");
  kept_[static_cast<size_t>(id)] = true;
}

void BlockPool::Forget(int32_t id) {
  STRATA_CHECK(kept(id), "only a kept block is forgotten");
  kept_[static_cast<size_t>(id)] = false;
  if (count(id) > 0) return;
  UnlinkIdle(id);
  free_.push_back(id);
}

void BlockPool::Hold(int32_t id) { ++counts_[static_cast<size_t>(id)]; }

void BlockPool::Release(int32_t id) {
  int32_t& count = counts_[static_cast<size_t>(id)];
  STRATA_CHECK(count > 0, "only a held block is given back");
  if (--count > 0) return;
  if (kept(id)) {
    LinkIdle(id);
  } else {
    free_.push_back(id);
  }
}

// Links the block as the youngest.
void BlockPool::LinkIdle(int32_t id) {
  const int32_t youngest = previous_[Anchor()];
  next_[Place(id)] = -1;
  previous_[Place(id)] = youngest;
  next_[Place(youngest)] = id;
  previous_[Anchor()] = id;
  ++num_idle_;
}

void BlockPool::UnlinkIdle(int32_t id) {
  next_[Place(previous_[Place(id)])] = next_[Place(id)];
  previous_[Place(next_[Place(id)])] = previous_[Place(id)];
  --num_idle_;
}

absl::Status BlockPool::CheckIntegrity() const {
  enum class State : uint8_t { kNeither, kFree, kIdle };
  std::vector<State> states(counts_.size(), State::kNeither);
  const auto mark = [&](int32_t id, State state, const char* list) {
    if (id < 0 || id >= num_blocks()) {
      return absl::InternalError(absl::StrCat("block ", id, " is ", list, " but does not exist"));
    }
    if (states[static_cast<size_t>(id)] != State::kNeither) {
      return absl::InternalError(absl::StrCat("block ", id, " is ", list, " twice"));
    }
    states[static_cast<size_t>(id)] = state;
    return absl::OkStatus();
  };
  for (int32_t id : free_) {
    RETURN_IF_ERROR(mark(id, State::kFree, "free"));
  }
  int32_t idle = 0;
  for (int32_t id = oldest_idle(); id != -1; id = next_[Place(id)], ++idle) {
    RETURN_IF_ERROR(mark(id, State::kIdle, "idle"));
  }
  if (idle != num_idle_) {
    return absl::InternalError(absl::StrCat(idle, " blocks are idle, counted ", num_idle_));
  }
  for (int32_t id = 0; id < num_blocks(); ++id) {
    const State state = states[static_cast<size_t>(id)];
    const State expected = count(id) > 0 ? State::kNeither : kept(id) ? State::kIdle : State::kFree;
    if (count(id) >= 0 && state == expected) continue;
    return absl::InternalError(absl::StrCat(
        "block ", id, " is ", state == State::kFree ? "" : "not ", "in the free list, ",
        kept(id) ? "" : "not ", "kept and held ", count(id), " times"));
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
