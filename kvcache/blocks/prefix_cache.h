#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"

namespace strata::kvcache {

// A tree of full blocks by their tokens. An entry is named by the entry before it and its own
// tokens, compared one by one; the hash only finds candidates. An entry's number is never given
// twice, so equal names mean equal tokens from the sequence's first on, and equal salts. Knows ids
// of blocks, not their holders. One thread.
class PrefixCache {
 public:
  static constexpr int32_t kNone = -1;

  PrefixCache(int32_t num_blocks, int32_t block_tokens);
  PrefixCache(const PrefixCache&) = delete;  // the index points back
  PrefixCache& operator=(const PrefixCache&) = delete;

  // The block that holds `tokens` after the block `parent` (kNone: at a sequence's start); kNone if
  // there is none. tokens: [block_tokens]. `salt` counts only at the start. REQUIRES: `parent` has
  // an entry.
  int32_t Find(int32_t parent, std::string_view salt, std::span<const int32_t> tokens) const;
  // REQUIRES: Find gives kNone, and `block` has no entry.
  void Insert(int32_t parent, std::string_view salt, std::span<const int32_t> tokens,
              int32_t block);
  // REQUIRES: `block` has an entry, and no entry comes after it.
  void Erase(int32_t block);

  bool contains(int32_t block) const { return entry(block).number != 0; }
  int64_t size() const { return static_cast<int64_t>(index_.size()); }

  absl::Status CheckIntegrity() const;

 private:
  struct Entry {
    uint64_t number = 0;  // 0: no entry
    uint64_t parent_number = 0;
    int32_t parent = kNone;
    int32_t children = 0;
  };
  struct Name {
    uint64_t parent_number;
    std::string_view salt;
    std::span<const int32_t> tokens;
  };
  const Entry& entry(int32_t block) const { return entries_[static_cast<size_t>(block)]; }
  Name MakeName(int32_t parent, std::string_view salt, std::span<const int32_t> tokens) const;
  Name NameOf(int32_t block) const;
  // Hashes a block by its entry's name, or a name: lookups have no entry in hand.
  struct Hash {
    using is_transparent = void;
    const PrefixCache* cache;
    size_t operator()(const Name& name) const;
    size_t operator()(int32_t block) const { return (*this)(cache->NameOf(block)); }
  };
  struct Equal {
    using is_transparent = void;
    const PrefixCache* cache;
    bool operator()(const Name& a, const Name& b) const;
    bool operator()(int32_t a, const Name& b) const { return (*this)(cache->NameOf(a), b); }
    bool operator()(const Name& a, int32_t b) const { return (*this)(a, cache->NameOf(b)); }
    bool operator()(int32_t a, int32_t b) const {
      return a == b || (*this)(cache->NameOf(a), cache->NameOf(b));
    }
  };

  const size_t block_tokens_;
  uint64_t last_number_ = 0;
  std::vector<Entry> entries_;                       // [num_blocks]
  std::vector<int32_t> tokens_;                      // [num_blocks, block_tokens]
  absl::flat_hash_map<int32_t, std::string> salts_;  // of first blocks that have a salt
  absl::flat_hash_set<int32_t, Hash, Equal> index_;  // blocks, by name
};

}  // namespace strata::kvcache
