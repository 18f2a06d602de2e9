#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kvcache/blocks/block_account.h"
#include "kvcache/blocks/prefix_cache.h"
#include "kvcache/plan/plane_map.h"

namespace strata::kvcache {

// The blocks of one sequence in position order: those of its planes and, while it decodes under a
// plan that stores scores, those of its scores. Move-only: its blocks go back when it does, and so
// does what was promised to it.
class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(BlockTable&& other) noexcept { *this = std::move(other); }
  BlockTable& operator=(BlockTable&& other) noexcept;

  void Clear();
  std::span<const int32_t> ids() const { return planes_.ids(); }
  int32_t num_blocks() const { return planes_.size(); }
  // The first blocks, as many, are known to the prefix cache.
  int32_t num_published() const { return published_; }
  std::span<const int32_t> score_ids() const { return scores_.ids(); }
  int32_t num_score_blocks() const { return scores_.size(); }
  // Blocks promised by Reserve and not drawn yet.
  int32_t num_reserved() const { return planes_.reserved(); }
  int32_t num_reserved_scores() const { return scores_.reserved(); }

 private:
  friend class CacheManager;
  BlockHolding planes_;
  int32_t published_ = 0;  // the first blocks of planes, which have entries in the prefix cache
  BlockHolding scores_;
};

struct CacheOptions {
  size_t cache_bytes = size_t{64} << 20;  // whole budget, keys, values and scores
  int32_t block_tokens = 0;               // REQUIRED
  CacheDTypes dtypes = {};
  // Whether there are score blocks: as many as blocks, both from the one budget. Without effect
  // where the plan reuses no scores.
  bool store_scores = false;
};

// total = used + cached + free
struct CacheUsage {
  int32_t blocks_total = 0;
  int32_t blocks_used = 0;    // in a table
  int32_t blocks_cached = 0;  // in no table, content kept for a prefix to come; evicted when needed
  int32_t blocks_free = 0;
  int32_t score_blocks_total = 0;  // = used + free
  int32_t score_blocks_used = 0;
};

// The arena, its pool of blocks, the prefixes they hold, and the arithmetic of admission. Owned and
// called by the engine thread alone.
//
// A block that several tables hold is full and is only read. Cached blocks go least recently used
// first, and of one sequence the last first, so that no block is left whose prefix is gone. A score
// block has one holder: a prefix is shared, the scores over it never are.
class CacheManager {
 public:
  // INVALID_ARGUMENT naming the budget and the size of a block, scores included, when not even one
  // fits;
  // RESOURCE_EXHAUSTED when the memory cannot be had. `backend` outlives the manager.
  static absl::StatusOr<std::unique_ptr<CacheManager>> Create(kernels::Backend* backend,
                                                              const SharingPlan& plan,
                                                              const CacheOptions& options);

  int32_t BlocksFor(int64_t num_tokens) const;
  int64_t capacity_tokens() const;  // blocks_total * block_tokens

  // The cached blocks that hold the beginning of a sequence: never all of its tokens, so that the
  // last is always computed.
  struct Hit {
    int32_t blocks = 0;
    int32_t idle = 0;  // of them, in no table yet: taking them leaves as many fewer for others
  };
  Hit FindPrefix(std::span<const int32_t> tokens, std::string_view salt) const;
  // Puts those blocks into an empty table. Returns the tokens they hold.
  int32_t AttachPrefix(BlockTable& table, std::span<const int32_t> tokens, std::string_view salt);
  // Makes the full blocks among the first `computed` tokens, whose entries are written, findable.
  // Where equal tokens are known already the table takes their block and lets its own go.
  void Publish(BlockTable& table, std::span<const int32_t> tokens, std::string_view salt,
               int32_t computed);

  // Blocks that Grow and Reserve can give to a table with no promise of its own.
  int32_t available() const { return blocks_.available(); }
  int32_t available_scores() const { return score_blocks_.available(); }
  bool stores_scores() const { return score_arena_ != nullptr; }
  // Grows `table` until it covers positions [0, num_tokens), evicting what is cached if need be.
  // False, and nothing changed, when too few blocks are available.
  bool Grow(BlockTable& table, int64_t num_tokens);
  // Whether the table's score blocks cover positions [0, num_tokens).
  bool ScoresCover(const BlockTable& table, int64_t num_tokens) const {
    return num_tokens <= int64_t{table.num_score_blocks()} * planes_.block_tokens();
  }
  // As Grow, for its score blocks. True where no scores are stored.
  bool GrowScores(BlockTable& table, int64_t num_tokens);
  // Promises `table` as many blocks beside those it has: Grow cannot fail for it until they are
  // drawn. False, and nothing changed, when too few are available.
  bool Reserve(BlockTable& table, int32_t blocks, int32_t score_blocks);
  // A table over the same first `num_tokens` tokens: full blocks are shared, the last part of a
  // block is copied, scores are its own to come. Takes `reserve` blocks and `reserve_scores` of
  // `table`'s promise along, the copy's among them. nullopt when no block for the copy is
  // available; that part of the promise is then given up.
  std::optional<BlockTable> Fork(BlockTable& table, int64_t num_tokens, int32_t reserve,
                                 int32_t reserve_scores);

  // Where the token at `position` is written: block id * block_tokens + place in the block.
  int64_t Slot(const BlockTable& table, int64_t position) const;

  const PlaneMap& planes() const { return planes_; }
  kernels::PagedArena arena() const;
  size_t arena_bytes() const;  // planes and scores
  CacheUsage usage() const;

  // The invariants of pool and prefix cache, and that exactly the blocks of `tables` are held.
  absl::Status CheckIntegrity(std::span<const BlockTable* const> tables) const;

 private:
  CacheManager(kernels::Backend* backend, PlaneMap planes, int32_t num_blocks,
               std::unique_ptr<kernels::Buffer> arena, std::unique_ptr<kernels::Buffer> scores);
  // Calls `take` with each cached block of the longest known prefix, in order.
  template <typename Take>
  void ForEachHit(std::span<const int32_t> tokens, std::string_view salt, Take take) const;
  void EvictOldest();

  kernels::Backend* const backend_;
  PlaneMap planes_;
  std::unique_ptr<kernels::Buffer> arena_;
  std::unique_ptr<kernels::Buffer> score_arena_;  // null: none are stored
  BlockAccount blocks_;
  BlockAccount score_blocks_;
  PrefixCache prefixes_;
};

}  // namespace strata::kvcache
