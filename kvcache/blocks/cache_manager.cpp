#include "kvcache/blocks/cache_manager.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/status_macros.h"

namespace strata::kvcache {
BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  planes_ = std::move(other.planes_);
  scores_ = std::move(other.scores_);
  published_ = std::exchange(other.published_, 0);
  return *this;
}

void BlockTable::Clear() {
  planes_.Clear();
  scores_.Clear();
  published_ = 0;
}

absl::StatusOr<std::unique_ptr<CacheManager>> CacheManager::Create(kernels::Backend* backend,
                                                                   PlaneMap planes,
                                                                   const CacheOptions& options) {
  STRATA_CHECK(planes.block_bytes() > 0, "a plan that was made has planes");
  const size_t score_bytes = options.store_scores ? planes.score_block_bytes() : 0;
  const size_t fitting = options.cache_bytes / (planes.block_bytes() + score_bytes);
  if (fitting == 0) {
    const std::string scores =
        score_bytes == 0 ? "" : absl::StrCat(" and ", score_bytes, " of reused scores");
    return absl::InvalidArgumentError(
        absl::StrCat("cache_bytes: ", options.cache_bytes, " is less than one block of ",
                     planes.block_tokens(), " tokens, ", planes.block_bytes(), " bytes", scores));
  }
  const auto num_blocks = static_cast<int32_t>(
      std::min(fitting, static_cast<size_t>(std::numeric_limits<int32_t>::max())));
  const auto allocate = [&](size_t block_bytes) {
    auto arena = backend->Allocate(static_cast<size_t>(num_blocks) * block_bytes);
    if (arena.ok()) return arena;
    return decltype(arena)(
        absl::Status(arena.status().code(),
                     absl::StrCat("cache of ", num_blocks, " blocks: ", arena.status().message())));
  };
  ASSIGN_OR_RETURN(auto arena, allocate(planes.block_bytes()));
  std::unique_ptr<kernels::Buffer> score_arena;
  if (score_bytes > 0) {
    ASSIGN_OR_RETURN(auto scores, allocate(score_bytes));
    score_arena = std::move(scores);
  }
  return std::unique_ptr<CacheManager>(new CacheManager(backend, std::move(planes), num_blocks,
                                                        std::move(arena), std::move(score_arena)));
}

CacheManager::CacheManager(kernels::Backend* backend, PlaneMap planes, int32_t num_blocks,
                           std::unique_ptr<kernels::Buffer> arena,
                           std::unique_ptr<kernels::Buffer> score_arena)
    : backend_(backend),
      planes_(std::move(planes)),
      arena_(std::move(arena)),
      score_arena_(std::move(score_arena)),
      blocks_(num_blocks),
      score_blocks_(score_arena_ == nullptr ? 0 : num_blocks),
      prefixes_(num_blocks, planes_.block_tokens()) {}

int32_t CacheManager::BlocksFor(int64_t num_tokens) const {
  STRATA_CHECK(num_tokens >= 0, "a number of tokens");
  const int64_t block_tokens = planes_.block_tokens();
  const int64_t blocks = num_tokens / block_tokens + (num_tokens % block_tokens != 0 ? 1 : 0);
  return static_cast<int32_t>(std::min(blocks, int64_t{std::numeric_limits<int32_t>::max()}));
}

int64_t CacheManager::capacity_tokens() const {
  return int64_t{blocks_.pool().num_blocks()} * planes_.block_tokens();
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
    if (blocks_.pool().count(block) == 0) ++hit.idle;
  });
  return hit;
}

int32_t CacheManager::AttachPrefix(BlockTable& table, std::span<const int32_t> tokens,
                                   std::string_view salt) {
  STRATA_CHECK(table.num_blocks() == 0, "a prefix comes first");
  ForEachHit(tokens, salt,
             [&](int32_t block) { table.planes_.Append(blocks_.pool().Share(block)); });
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
    const int32_t parent = i == 0 ? PrefixCache::kNone : table.ids()[i - 1];
    const auto block = tokens.subspan(i * block_tokens, block_tokens);
    const int32_t known = prefixes_.Find(parent, salt, block);
    if (known == PrefixCache::kNone) {
      prefixes_.Insert(parent, salt, block, table.ids()[i]);
      blocks_.pool().Keep(table.ids()[i]);
    } else {
      table.planes_.Replace(i, blocks_.pool().Share(known));
    }
  }
}

void CacheManager::EvictOldest() {
  const int32_t oldest = blocks_.pool().oldest_idle();
  prefixes_.Erase(oldest);
  blocks_.pool().Forget(oldest);
}

bool CacheManager::Grow(BlockTable& table, int64_t num_tokens) {
  // Most calls need no block, and so cost no division.
  if (num_tokens <= int64_t{table.num_blocks()} * planes_.block_tokens()) return true;
  return blocks_.Grow(table.planes_, BlocksFor(num_tokens), [this] { EvictOldest(); });
}

bool CacheManager::GrowScores(BlockTable& table, int64_t num_tokens) {
  if (!stores_scores() || ScoresCover(table, num_tokens)) return true;
  return score_blocks_.Grow(table.scores_, BlocksFor(num_tokens), [] {});
}

bool CacheManager::Reserve(BlockTable& table, int32_t blocks, int32_t score_blocks) {
  STRATA_CHECK(blocks >= 0 && score_blocks >= 0, "numbers of blocks");
  if (blocks > available() || score_blocks > available_scores()) return false;
  blocks_.Promise(table.planes_, blocks);
  score_blocks_.Promise(table.scores_, score_blocks);
  return true;
}

std::optional<BlockTable> CacheManager::Fork(BlockTable& table, int64_t num_tokens, int32_t reserve,
                                             int32_t reserve_scores) {
  STRATA_CHECK(BlocksFor(num_tokens) <= table.num_blocks(), "tokens that the table covers");
  const auto full = static_cast<size_t>(num_tokens / planes_.block_tokens());
  const bool part = num_tokens % planes_.block_tokens() != 0;
  if (part && reserve == 0 && available() < 1) {
    score_blocks_.TrimPromise(table.scores_, table.num_reserved_scores() - reserve_scores);
    return std::nullopt;
  }
  BlockTable fork;
  for (size_t i = 0; i < full; ++i) fork.planes_.Append(table.planes_[i]);
  fork.published_ = std::min(table.published_, static_cast<int32_t>(full));
  blocks_.MovePromise(table.planes_, fork.planes_, reserve);
  score_blocks_.MovePromise(table.scores_, fork.scores_, reserve_scores);
  if (part) {
    STRATA_CHECK(Grow(fork, num_tokens), "a block is available");
    const size_t bytes = planes_.block_bytes();
    backend_->Copy(arena_->data() + bytes * static_cast<size_t>(fork.ids()[full]),
                   arena_->data() + bytes * static_cast<size_t>(table.ids()[full]), bytes);
  }
  return fork;
}

int64_t CacheManager::Slot(const BlockTable& table, int64_t position) const {
  const int64_t block_tokens = planes_.block_tokens();
  STRATA_CHECK(position >= 0 && position < table.num_blocks() * block_tokens,
               "a position that the table covers");
  // Divides in 32 bits: a division in 64 takes as long as all the rest.
  const auto place = static_cast<uint32_t>(position);
  const uint32_t block = place / static_cast<uint32_t>(block_tokens);
  return int64_t{table.ids()[block]} * block_tokens + place % static_cast<uint32_t>(block_tokens);
}

kernels::PagedArena CacheManager::arena() const {
  return {.arena = arena_->data(),
          .place_bytes = planes_.block_bytes(),
          .block_tokens = planes_.block_tokens(),
          .key_format = planes_.formats().keys,
          .value_format = planes_.formats().values,
          .scores = stores_scores() ? score_arena_->floats() : nullptr,
          .score_slots = stores_scores() ? planes_.score_slots() : 0};
}

size_t CacheManager::arena_bytes() const {
  return arena_->size() + (stores_scores() ? score_arena_->size() : 0);
}

CacheUsage CacheManager::usage() const {
  const BlockPool& pool = blocks_.pool();
  const BlockPool& scores = score_blocks_.pool();
  return {.blocks_total = pool.num_blocks(),
          .blocks_used = pool.num_held(),
          .blocks_cached = pool.num_idle(),
          .blocks_free = pool.num_free(),
          .score_blocks_total = scores.num_blocks(),
          .score_blocks_used = scores.num_held()};
}

absl::Status CacheManager::CheckIntegrity(std::span<const BlockTable* const> tables) const {
  std::vector<const BlockHolding*> planes;
  std::vector<const BlockHolding*> scores;
  for (const BlockTable* table : tables) {
    planes.push_back(&table->planes_);
    scores.push_back(&table->scores_);
  }
  RETURN_IF_ERROR(blocks_.CheckIntegrity(planes));
  if (absl::Status status = score_blocks_.CheckIntegrity(scores); !status.ok()) {
    return absl::InternalError(absl::StrCat("scores: ", status.message()));
  }
  for (int32_t id = 0; id < score_blocks_.pool().num_blocks(); ++id) {
    if (score_blocks_.pool().count(id) <= 1) continue;
    return absl::InternalError(absl::StrCat("scores: block ", id, " is shared"));
  }
  RETURN_IF_ERROR(prefixes_.CheckIntegrity());
  for (int32_t id = 0; id < blocks_.pool().num_blocks(); ++id) {
    const bool kept = blocks_.pool().kept(id);
    if (prefixes_.contains(id) == kept) continue;
    return absl::InternalError(absl::StrCat("block ", id,
                                            kept ? " is kept without" : " is not kept with",
                                            " an entry in the prefix cache"));
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
