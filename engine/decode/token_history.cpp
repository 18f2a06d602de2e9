#include "engine/decode/token_history.h"

namespace strata::engine {

TokenHistory::TokenHistory(const SamplingParams& params, std::span<const int32_t> prompt) {
  const bool of_prompt = params.repetition_penalty != 1;
  enabled_ = of_prompt || params.frequency_penalty != 0 || params.presence_penalty != 0;
  if (!of_prompt) return;
  for (const int32_t token : prompt) EntryOf(token);
}

void TokenHistory::AddOutput(int32_t token) {
  if (enabled_) ++EntryOf(token).generated;
}

TokenHistory::Entry& TokenHistory::EntryOf(int32_t token) {
  const auto [place, is_new] = places_.try_emplace(token, entries_.size());
  if (is_new) entries_.push_back({.id = token});
  return entries_[place->second];
}

}  // namespace strata::engine
