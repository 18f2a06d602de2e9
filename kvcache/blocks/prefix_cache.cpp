#include "kvcache/blocks/prefix_cache.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/check.h"

namespace strata::kvcache {

PrefixCache::PrefixCache(int32_t num_blocks, int32_t block_tokens)
    : block_tokens_(static_cast<size_t>(block_tokens)),
      entries_(static_cast<size_t>(num_blocks)),
      tokens_(static_cast<size_t>(num_blocks) * block_tokens_),
      index_(/*bucket_count=*/0, Hash{this}, Equal{this}) {}

PrefixCache::Name PrefixCache::MakeName(int32_t parent, std::string_view salt,
                                        std::span<const int32_t> tokens) const {
  STRATA_CHECK(tokens.size() == block_tokens_, "the tokens of one block");
  if (parent == kNone) return {0, salt, tokens};
  STRATA_CHECK(contains(parent), "the block before has an entry");
  return {entry(parent).number, {}, tokens};
}

int32_t PrefixCache::Find(int32_t parent, std::string_view salt,
                          std::span<const int32_t> tokens) const {
  const auto found = index_.find(MakeName(parent, salt, tokens));
  return found == index_.end() ? kNone : *found;
}

void PrefixCache::Insert(int32_t parent, std::string_view salt, std::span<const int32_t> tokens,
                         int32_t block) {
  STRATA_CHECK(!contains(block), "a block has one entry");
  const Name name = MakeName(parent, salt, tokens);
  entries_[static_cast<size_t>(block)] = {.number = ++last_number_,
                                          .parent_number = name.parent_number,
                                          .parent = parent,
                                          .children = 0};
  std::ranges::copy(tokens, tokens_.begin() + static_cast<std::ptrdiff_t>(block_tokens_) * block);
  if (parent != kNone) ++entries_[static_cast<size_t>(parent)].children;
  if (!name.salt.empty()) salts_.emplace(block, name.salt);
  STRATA_CHECK(index_.insert(block).second, "a name stands for one block");
}

void PrefixCache::Erase(int32_t block) {
  STRATA_CHECK(contains(block) && entry(block).children == 0, "an entry that none comes after");
  STRATA_CHECK(index_.erase(block) == 1, "an entry is found by its name");
  salts_.erase(block);
  const int32_t parent = entry(block).parent;
  if (parent != kNone) --entries_[static_cast<size_t>(parent)].children;
  entries_[static_cast<size_t>(block)] = {};
}

PrefixCache::Name PrefixCache::NameOf(int32_t block) const {
  std::string_view salt;
  if (entry(block).parent == kNone) {
    const auto found = salts_.find(block);
    if (found != salts_.end()) salt = found->second;
  }
  return {entry(block).parent_number, salt,
          std::span(tokens_).subspan(static_cast<size_t>(block) * block_tokens_, block_tokens_)};
}

size_t PrefixCache::Hash::operator()(const Name& name) const {
  return absl::HashOf(name.parent_number, absl::MakeConstSpan(name.salt.data(), name.salt.size()),
                      absl::MakeConstSpan(name.tokens.data(), name.tokens.size()));
}

bool PrefixCache::Equal::operator()(const Name& a, const Name& b) const {
  return a.parent_number == b.parent_number && a.salt == b.salt &&
         std::ranges::equal(a.tokens, b.tokens);
}

absl::Status PrefixCache::CheckIntegrity() const {
  std::vector<int32_t> children(entries_.size());
  int64_t count = 0;
  for (int32_t block = 0; block < std::ssize(entries_); ++block) {
    if (!contains(block)) continue;
    ++count;
    const auto found = index_.find(NameOf(block));
    if (found == index_.end() || *found != block) {
      return absl::InternalError(absl::StrCat("block ", block, " is not found by its tokens"));
    }
    const int32_t parent = entry(block).parent;
    if (parent == kNone) continue;
    if (entry(parent).number != entry(block).parent_number) {
      return absl::InternalError(
          absl::StrCat("block ", block, " comes after an entry that is gone"));
    }
    ++children[static_cast<size_t>(parent)];
  }
  for (int32_t block = 0; block < std::ssize(entries_); ++block) {
    const int32_t found = children[static_cast<size_t>(block)];
    if (found == entry(block).children) continue;
    return absl::InternalError(absl::StrCat("block ", block, " counts ", entry(block).children,
                                            " entries after it, has ", found));
  }
  if (count != size()) {
    return absl::InternalError(absl::StrCat(count, " entries, ", size(), " in the index"));
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
