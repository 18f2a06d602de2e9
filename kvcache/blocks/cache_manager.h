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

// The blocks of one sequence in position order: its plane blocks and, while the sequence decodes
// under a plan that stores scores, its score blocks. Move-only: its destruction gives back its
// blocks and its promises.
class BlockTable {
 public:
  BlockTable() = default;
  BlockTable(BlockTable&& other) noexcept { *this = std::move(other); }
  BlockTable& operator=(BlockTable&& other) noexcept;

  void Clear();
  std::span<const int32_t> ids() const { return planes_.ids(); }
  int32_t num_blocks() const { return planes_.size(); }
  // The number of first blocks that are known to the prefix cache.
  int32_t num_published() const { return published_; }
  std::span<const int32_t> score_ids() const { return scores_.ids(); }
  int32_t num_score_blocks() const { return scores_.size(); }
  // Blocks promised by Reserve and not drawn yet.
  int32_t num_reserved() const { return planes_.reserved(); }
  int32_t num_reserved_scores() const { return scores_.reserved(); }

 private:
  friend class CacheManager;
  BlockHolding planes_;
  int32_t published_ = 0;  // first blocks of planes_ with entries in the prefix cache
  BlockHolding scores_;
};

struct CacheOptions {
  size_t cache_bytes = size_t{64} << 20;  // whole budget, keys, values and scores
  // Whether there are score blocks: as many as blocks, both from the one budget. No effect if the
  // plan reuses no scores.
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

// The arena, its pool of blocks, the prefixes in them, and the arithmetic of admission. Owned and
// called by the engine thread alone.
//
// A block in several tables is full and only read. Cached blocks are evicted least recently used
// first, and within a sequence from its end, so that no block outlives its prefix. A score block
// has one holder: a prefix is shared, the scores over it never are.
class CacheManager {
 public:
  // INVALID_ARGUMENT naming the budget and the size of a block, scores included, if not even one
  // block fits; RESOURCE_EXHAUSTED if there is too little memory. `backend` outlives the manager.
  static absl::StatusOr<std::unique_ptr<CacheManager>> Create(kernels::Backend* backend,
                                                              PlaneMap planes,
                                                              const CacheOptions& options);

  int32_t BlocksFor(int64_t num_tokens) const;
  int64_t capacity_tokens() const;  // blocks_total * block_tokens

  // The cached blocks with the beginning of a sequence. They never hold all of its tokens, so that
  // the last token is always computed.
  struct Hit {
    int32_t blocks = 0;
    int32_t idle = 0;  // of these, in no table yet: taking one leaves one fewer available
  };
  Hit FindPrefix(std::span<const int32_t> tokens, std::string_view salt) const;
  // Puts the blocks of FindPrefix into an empty table. Returns the number of tokens in them.
  int32_t AttachPrefix(BlockTable& table, std::span<const int32_t> tokens, std::string_view salt);
  // Makes the full blocks among the first `computed` tokens findable. REQUIRES: their entries are
  // written. If a block with equal tokens is known, the table takes that block and gives up its
  // own.
  void Publish(BlockTable& table, std::span<const int32_t> tokens, std::string_view salt,
               int32_t computed);

  // Blocks that Grow and Reserve can give to a table without a promise.
  int32_t available() const { return blocks_.available(); }
  int32_t available_scores() const { return score_blocks_.available(); }
  bool stores_scores() const { return score_arena_ != nullptr; }
  // Grows `table` until it covers positions [0, num_tokens), evicting cached blocks if need be.
  // Returns false and changes nothing if too few blocks are available.
  bool Grow(BlockTable& table, int64_t num_tokens);
  // Whether the table's score blocks cover positions [0, num_tokens).
  bool ScoresCover(const BlockTable& table, int64_t num_tokens) const {
    return num_tokens <= int64_t{table.num_score_blocks()} * planes_.block_tokens();
  }
  // As Grow, for the table's score blocks. True if no scores are stored.
  bool GrowScores(BlockTable& table, int64_t num_tokens);
  // Promises `blocks` more blocks to `table`: Grow cannot fail for it until they are drawn. Returns
  // false and changes nothing if too few are available.
  bool Reserve(BlockTable& table, int32_t blocks, int32_t score_blocks);
  // A new table over the first `num_tokens` tokens of `table`: full blocks are shared, a block in
  // part is copied, and the new table has no score blocks yet. Takes `reserve` blocks (the copy
  // among them) and `reserve_scores` score blocks from the promise of `table`. nullopt if no block
  // for the copy is available; this part of the promise is then given up.
  std::optional<BlockTable> Fork(BlockTable& table, int64_t num_tokens, int32_t reserve,
                                 int32_t reserve_scores);

  // The slot of the token at `position`: block id * block_tokens + place in the block.
  int64_t Slot(const BlockTable& table, int64_t position) const;

  const PlaneMap& planes() const { return planes_; }
  kernels::PagedArena arena() const;
  size_t arena_bytes() const;  // planes and scores
  CacheUsage usage() const;

  // Checks the invariants of pool and prefix cache, and that the blocks of `tables` and no others
  // are held.
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
