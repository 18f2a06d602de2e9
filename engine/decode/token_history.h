#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/base/types.h"
#include "kernels/token_choice.h"

namespace strata::engine {

// A sequence's tokens as the penalties need them: each token, and how often it was generated. Stays
// empty, and costs nothing, if the parameters have no penalty. Copied when a sequence is forked.
class TokenHistory {
 public:
  using Entry = kernels::SeenToken;

  TokenHistory() = default;
  TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt);

  // Whether the parameters have a penalty.
  bool enabled() const { return enabled_; }
  // Records a token that was appended to the output.
  void AddOutput(int32_t token);

  // Each token once, in the order of first occurrence; [distinct tokens].
  std::span<const Entry> entries() const { return entries_; }

 private:
  Entry& EntryOf(int32_t token);

  bool enabled_ = false;
  std::vector<Entry> entries_;
  std::unordered_map<int32_t, size_t> places_;  // id -> place in entries_
};

}  // namespace strata::engine
