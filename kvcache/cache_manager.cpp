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

BlockTable::BlockTable(BlockTable&& other) noexcept { *this = std::move(other); }

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  blocks_ = std::exchange(other.blocks_, {});
  ids_ = std::exchange(other.ids_, {});
  published_ = std::exchange(other.published_, 0);
  reserved_ = std::exchange(other.reserved_, 0);
  promised_ = other.promised_;
  return *this;
}

// The last block first: cached blocks are evicted in the order in which they came back, and none
// may go before those that continue it.
void BlockTable::Clear() {
  while (!blocks_.empty()) blocks_.pop_back();
  ids_.clear();
  published_ = 0;
  if (reserved_ > 0) *promised_ -= std::exchange(reserved_, 0);
}

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
      new CacheManager(backend, std::move(planes), num_blocks, *std::move(arena)));
}

CacheManager::CacheManager(kernels::Backend* backend, PlaneMap planes, int32_t num_blocks,
                           std::unique_ptr<kernels::Buffer> arena)
    : backend_(backend),
      planes_(std::move(planes)),
      arena_(std::move(arena)),
      pool_(num_blocks),
      prefixes_(num_blocks, planes_.block_tokens()) {}

int32_t CacheManager::BlocksFor(int64_t num_tokens) const {
  STRATA_CHECK(num_tokens >= 0, "a number of tokens");
  const int64_t block_tokens = planes_.block_tokens();
  const int64_t blocks = num_tokens / block_tokens + (num_tokens % block_tokens != 0 ? 1 : 0);
  return static_cast<int32_t>(std::min(blocks, int64_t{std::numeric_limits<int32_t>::max()}));
}

int64_t CacheManager::capacity_tokens() const {
  return int64_t{pool_.num_blocks()} * planes_.block_tokens();
}

template <typename Take>
void CacheManager::ForEachHit(std::span<const int32_t> tokens, std::string_view salt,
                              Take take) const {
  const auto block_tokens = static_cast<size_t>(planes_.block_tokens());
  int32_t last = PrefixCache::kNone;
  while (tokens.size() > block_tokens) {
    last = prefixes_.Find(last, salt, tokens.first(block_tokens));
    if (last == PrefixCache::kNone) return;
    take(last);
    tokens = tokens.subspan(block_tokens);
  }
}

CacheManager::Hit CacheManager::FindPrefix(std::span<const int32_t> tokens,
                                           std::string_view salt) const {
  Hit hit;
  ForEachHit(tokens, salt, [&](int32_t block) {
    ++hit.blocks;
    if (pool_.count(block) == 0) ++hit.idle;
  });
  return hit;
}

int32_t CacheManager::AttachPrefix(BlockTable& table, std::span<const int32_t> tokens,
                                   std::string_view salt) {
  STRATA_CHECK(table.num_blocks() == 0, "a prefix comes first");
  ForEachHit(tokens, salt, [&](int32_t block) { Append(table, pool_.Share(block)); });
  table.published_ = table.num_blocks();
  return table.num_blocks() * planes_.block_tokens();
}

void CacheManager::Publish(BlockTable& table, std::span<const int32_t> tokens,
                           std::string_view salt, int32_t computed) {
  const auto block_tokens = static_cast<size_t>(planes_.block_tokens());
  if (computed < (int64_t{table.published_} + 1) * planes_.block_tokens()) return;
  const int32_t full = computed / planes_.block_tokens();
  STRATA_CHECK(full <= table.num_blocks(), "computed tokens are in the table");
  for (; table.published_ < full; ++table.published_) {
    const auto i = static_cast<size_t>(table.published_);
    const int32_t parent = i == 0 ? PrefixCache::kNone : table.ids_[i - 1];
    const auto block = tokens.subspan(i * block_tokens, block_tokens);
    const int32_t known = prefixes_.Find(parent, salt, block);
    if (known == PrefixCache::kNone) {
      prefixes_.Insert(parent, salt, block, table.ids_[i]);
      pool_.Keep(table.ids_[i]);
    } else {
      table.blocks_[i] = pool_.Share(known);
      table.ids_[i] = known;
    }
  }
}

BlockRef CacheManager::TakeBlock() {
  if (pool_.num_free() == 0) {
    const int32_t oldest = pool_.oldest_idle();
    prefixes_.Erase(oldest);
    pool_.Forget(oldest);
  }
  std::optional<BlockRef> block = pool_.Allocate();
  STRATA_CHECK(block.has_value(), "as many were available as are needed");
  return *std::move(block);
}

void CacheManager::Append(BlockTable& table, BlockRef block) {
  table.ids_.push_back(block.id());
  table.blocks_.push_back(std::move(block));
}

bool CacheManager::Grow(BlockTable& table, int64_t num_tokens) {
  // Most calls need nothing: they cost no division.
  if (num_tokens <= int64_t{table.num_blocks()} * planes_.block_tokens()) return true;
  const int32_t needed = BlocksFor(num_tokens) - table.num_blocks();
  if (needed > available() + table.reserved_) return false;
  const int32_t drawn = std::min(needed, table.reserved_);
  table.reserved_ -= drawn;
  promised_ -= drawn;
  for (int32_t i = 0; i < needed; ++i) Append(table, TakeBlock());
  return true;
}

bool CacheManager::Reserve(BlockTable& table, int32_t blocks) {
  STRATA_CHECK(blocks >= 0, "a number of blocks");
  if (blocks > available()) return false;
  table.promised_ = &promised_;
  table.reserved_ += blocks;
  promised_ += blocks;
  return true;
}

std::optional<BlockTable> CacheManager::Fork(BlockTable& table, int64_t num_tokens,
                                             int32_t reserve) {
  STRATA_CHECK(reserve <= table.reserved_, "a part of what was promised");
  STRATA_CHECK(BlocksFor(num_tokens) <= table.num_blocks(), "tokens that the table covers");
  const auto full = static_cast<size_t>(num_tokens / planes_.block_tokens());
  const bool part = num_tokens % planes_.block_tokens() != 0;
  if (part && reserve == 0 && available() < 1) return std::nullopt;
  BlockTable fork;
  for (size_t i = 0; i < full; ++i) Append(fork, table.blocks_[i]);
  fork.published_ = std::min(table.published_, static_cast<int32_t>(full));
  fork.promised_ = table.promised_;
  fork.reserved_ = reserve;
  table.reserved_ -= reserve;
  if (part) {
    STRATA_CHECK(Grow(fork, num_tokens), "a block is available");
    const size_t bytes = planes_.block_bytes();
    backend_->Copy(arena_->data() + bytes * static_cast<size_t>(fork.ids_[full]),
                   arena_->data() + bytes * static_cast<size_t>(table.ids_[full]), bytes);
  }
  return fork;
}

int64_t CacheManager::Slot(const BlockTable& table, int64_t position) const {
  const int64_t block_tokens = planes_.block_tokens();
  STRATA_CHECK(position >= 0 && position < table.num_blocks() * block_tokens,
               "a position that the table covers");
  // Of 32 bits: a division of 64 takes as long as all the rest.
  const auto place = static_cast<uint32_t>(position);
  const uint32_t block = place / static_cast<uint32_t>(block_tokens);
  return int64_t{table.ids_[block]} * block_tokens + place % static_cast<uint32_t>(block_tokens);
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
      static_cast<size_t>(pool_.num_held()) * static_cast<size_t>(planes_.block_tokens());
  return {.blocks_total = pool_.num_blocks(),
          .blocks_used = pool_.num_held(),
          .blocks_cached = pool_.num_idle(),
          .blocks_free = pool_.num_free(),
          .key_bytes_used = tokens * planes_.key_bytes_per_token(),
          .value_bytes_used = tokens * planes_.value_bytes_per_token()};
}

absl::Status CacheManager::CheckIntegrity(std::span<const BlockTable* const> tables) const {
  if (absl::Status status = pool_.CheckIntegrity(); !status.ok()) return status;
  if (absl::Status status = prefixes_.CheckIntegrity(); !status.ok()) return status;
  int32_t promised = 0;
  std::vector<int32_t> holds(static_cast<size_t>(pool_.num_blocks()));
  for (const BlockTable* table : tables) {
    promised += table->reserved_;
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
  if (promised != promised_ || available() < 0) {
    return absl::InternalError(absl::StrCat(promised_, " blocks are promised, to tables ", promised,
                                            "; ", available(), " are available"));
  }
  for (int32_t id = 0; id < pool_.num_blocks(); ++id) {
    if (prefixes_.contains(id) != pool_.kept(id)) {
      return absl::InternalError(
          absl::StrCat("block ", id, pool_.kept(id) ? " is kept without" : " is not kept with",
                       " an entry in the prefix cache"));
    }
    if (holds[static_cast<size_t>(id)] != pool_.count(id)) {
      return absl::InternalError(absl::StrCat("block ", id, " is held ", pool_.count(id),
                                              " times, by tables ",
                                              holds[static_cast<size_t>(id)]));
    }
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
