#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/base/types.h"
#include "kernels/token_choice.h"

namespace strata::engine {

// What the penalties must know of a sequence: which tokens it holds and how often each was
// generated. Stays empty, and costs nothing, where the parameters have no penalty. Copied when a
// sequence is forked.
class TokenHistory {
 public:
  using Entry = kernels::SeenToken;

  TokenHistory() = default;
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  // Whether the parameters ask for it at all.
  bool enabled() const { return enabled_; }
  // A token was appended to the output.
  void AddOutput(int32_t token);

  // Each token once, in the order of its first place; [distinct tokens].
  std::span<const Entry> entries() const { return entries_; }

 private:
  Entry& EntryOf(int32_t token);

  bool enabled_ = false;
  std::vector<Entry> entries_;
  std::unordered_map<int32_t, size_t> places_;  // id -> place in entries_
};

}  // namespace strata::engine
