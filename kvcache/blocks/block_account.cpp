#include "kvcache/blocks/block_account.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/status_macros.h"

namespace strata::kvcache {

BlockHolding& BlockHolding::operator=(BlockHolding&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  blocks_ = std::exchange(other.blocks_, {});
  ids_ = std::exchange(other.ids_, {});
  reserved_ = std::exchange(other.reserved_, 0);
  promised_ = other.promised_;
  return *this;
}

// Gives back the last block first: cached blocks are evicted in the order of their return, and no
// block may be evicted before its continuations.
void BlockHolding::Clear() {
  while (!blocks_.empty()) blocks_.pop_back();
  ids_.clear();
  if (reserved_ > 0) *promised_ -= std::exchange(reserved_, 0);
}

void BlockHolding::Append(BlockRef block) {
  ids_.push_back(block.id());
  blocks_.push_back(std::move(block));
}

void BlockHolding::Replace(size_t i, BlockRef block) {
  ids_[i] = block.id();
  blocks_[i] = std::move(block);
}

void BlockAccount::Promise(BlockHolding& holding, int32_t blocks) {
  STRATA_CHECK(blocks >= 0 && blocks <= available(), "what is promised can be had");
  holding.promised_ = &promised_;
  holding.reserved_ += blocks;
  promised_ += blocks;
}

void BlockAccount::MovePromise(BlockHolding& from, BlockHolding& to, int32_t blocks) {
  STRATA_CHECK(blocks >= 0 && blocks <= from.reserved_, "a part of what was promised");
  from.reserved_ -= blocks;
  to.promised_ = &promised_;
  to.reserved_ += blocks;
}

void BlockAccount::TrimPromise(BlockHolding& holding, int32_t blocks) {
  const int32_t rest = std::max(0, holding.reserved_ - blocks);
  holding.reserved_ -= rest;
  promised_ -= rest;
}

bool BlockAccount::Grow(BlockHolding& holding, int32_t num_blocks,
                        absl::FunctionRef<void()> evict) {
  const int32_t needed = num_blocks - holding.size();
  if (needed <= 0) return true;
  if (needed > available() + holding.reserved_) return false;
  const int32_t drawn = std::min(needed, holding.reserved_);
  holding.reserved_ -= drawn;
  promised_ -= drawn;
  for (int32_t i = 0; i < needed; ++i) {
    if (pool_.num_free() == 0) evict();
    std::optional<BlockRef> block = pool_.Allocate();
    STRATA_CHECK(block.has_value(), "as many were available as are needed");
    holding.Append(*std::move(block));
  }
  return true;
}

absl::Status BlockAccount::CheckIntegrity(std::span<const BlockHolding* const> holdings) const {
  RETURN_IF_ERROR(pool_.CheckIntegrity());
  std::vector<int32_t> holds(static_cast<size_t>(pool_.num_blocks()));
  int32_t promised = 0;
  for (const BlockHolding* holding : holdings) {
    promised += holding->reserved_;
    if (holding->ids_.size() != holding->blocks_.size()) {
      return absl::InternalError(absl::StrCat("a table of ", holding->blocks_.size(),
                                              " blocks lists ", holding->ids_.size(), " ids"));
    }
    for (size_t i = 0; i < holding->ids_.size(); ++i) {
      const int32_t id = holding->blocks_[i].id();
      if (id != holding->ids_[i]) {
        return absl::InternalError(
            absl::StrCat("a table lists block ", holding->ids_[i], " but holds ", id));
      }
      ++holds[static_cast<size_t>(id)];
    }
  }
  if (promised != promised_ || available() < 0) {
    return absl::InternalError(absl::StrCat(promised_, " blocks are promised, to tables ", promised,
                                            "; ", available(), " are available"));
  }
  for (int32_t id = 0; id < pool_.num_blocks(); ++id) {
    if (holds[static_cast<size_t>(id)] == pool_.count(id)) continue;
    return absl::InternalError(absl::StrCat("block ", id, " is held ", pool_.count(id),
                                            " times, by tables ", holds[static_cast<size_t>(id)]));
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
