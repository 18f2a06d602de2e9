#include "kvcache/cache_manager.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace strata::kvcache {
namespace {

constexpr int32_t kMaxBlockTokens = 1 << 16;

}  // namespace

absl::StatusOr<std::unique_ptr<CacheManager>> CacheManager::Create(kernels::Backend* backend,
                                                                   const SharingPlan& plan,
                                                                   const CacheOptions& options) {
  if (options.block_tokens < 1 || options.block_tokens > kMaxBlockTokens) {
    return absl::InvalidArgumentError(absl::StrCat("block_tokens: ", options.block_tokens,
                                                   " is out of range (1..", kMaxBlockTokens, ")"));
  }
  PlaneMap planes(plan, options.dtype, options.block_tokens);
  STRATA_CHECK(planes.block_bytes() > 0, "a plan that was made has planes");
  const size_t fitting = options.cache_bytes / planes.block_bytes();
  if (fitting == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache_bytes: ", options.cache_bytes, " is less than one block of ",
                     options.block_tokens, " tokens, ", planes.block_bytes(), " bytes"));
  }
  const auto num_blocks = static_cast<int32_t>(
      std::min(fitting, static_cast<size_t>(std::numeric_limits<int32_t>::max())));
  absl::StatusOr<std::unique_ptr<kernels::Buffer>> arena =
      backend->Allocate(static_cast<size_t>(num_blocks) * planes.block_bytes());
  if (!arena.ok()) {
    return absl::Status(arena.status().code(), absl::StrCat("cache of ", num_blocks,
                                                            " blocks: ", arena.status().message()));
  }
  return std::unique_ptr<CacheManager>(
      new CacheManager(std::move(planes), num_blocks, *std::move(arena)));
}

CacheManager::CacheManager(PlaneMap planes, int32_t num_blocks,
                           std::unique_ptr<kernels::Buffer> arena)
    : planes_(std::move(planes)), arena_(std::move(arena)), pool_(num_blocks) {}

int32_t CacheManager::BlocksFor(int64_t num_tokens) const {
  STRATA_CHECK(num_tokens >= 0, "a number of tokens");
  const int64_t block_tokens = planes_.block_tokens();
  const int64_t blocks = num_tokens / block_tokens + (num_tokens % block_tokens != 0 ? 1 : 0);
  return static_cast<int32_t>(std::min(blocks, int64_t{std::numeric_limits<int32_t>::max()}));
}

int64_t CacheManager::capacity_tokens() const {
  return int64_t{pool_.num_blocks()} * planes_.block_tokens();
}

bool CacheManager::Grow(BlockTable& table, int64_t num_tokens) {
  const int32_t needed = BlocksFor(num_tokens) - table.num_blocks();
  if (needed <= 0) return true;
  if (needed > pool_.num_free()) return false;
  for (int32_t i = 0; i < needed; ++i) {
    std::optional<BlockRef> block = pool_.Allocate();
    STRATA_CHECK(block.has_value(), "as many were free as are needed");
    table.ids_.push_back(block->id());
    table.blocks_.push_back(*std::move(block));
  }
  return true;
}

int64_t CacheManager::Slot(const BlockTable& table, int64_t position) const {
  const int64_t block_tokens = planes_.block_tokens();
  STRATA_CHECK(position >= 0 && position / block_tokens < table.num_blocks(),
               "a position that the table covers");
  const auto block = static_cast<size_t>(position / block_tokens);
  return int64_t{table.ids_[block]} * block_tokens + position % block_tokens;
}

kernels::PagedArena CacheManager::arena() const {
  return {.arena = arena_->data(),
          .block_bytes = planes_.block_bytes(),
          .block_tokens = planes_.block_tokens(),
          .head_dim = planes_.head_dim(),
          .dtype = planes_.dtype()};
}

size_t CacheManager::arena_bytes() const {
  return static_cast<size_t>(pool_.num_blocks()) * planes_.block_bytes();
}

CacheUsage CacheManager::usage() const {
  const size_t tokens =
      static_cast<size_t>(pool_.num_used()) * static_cast<size_t>(planes_.block_tokens());
  return {.blocks_total = pool_.num_blocks(),
          .blocks_used = pool_.num_used(),
          .key_bytes_used = tokens * planes_.key_bytes_per_token(),
          .value_bytes_used = tokens * planes_.value_bytes_per_token()};
}

absl::Status CacheManager::CheckIntegrity(std::span<const BlockTable* const> tables) const {
  absl::Status status = pool_.CheckIntegrity();
  if (!status.ok()) return status;
  std::vector<int32_t> holds(static_cast<size_t>(pool_.num_blocks()));
  for (const BlockTable* table : tables) {
    if (table->ids_.size() != table->blocks_.size()) {
      return absl::InternalError(absl::StrCat("a table of ", table->blocks_.size(),
                                              " blocks lists ", table->ids_.size(), " ids"));
    }
    for (size_t i = 0; i < table->ids_.size(); ++i) {
      const int32_t id = table->blocks_[i].id();
      if (id != table->ids_[i]) {
        return absl::InternalError(
            absl::StrCat("a table lists block ", table->ids_[i], " but holds ", id));
      }
      ++holds[static_cast<size_t>(id)];
    }
  }
  for (int32_t id = 0; id < pool_.num_blocks(); ++id) {
    if (holds[static_cast<size_t>(id)] != pool_.count(id)) {
      return absl::InternalError(absl::StrCat("block ", id, " is held ", pool_.count(id),
                                              " times, by tables ",
                                              holds[static_cast<size_t>(id)]));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
