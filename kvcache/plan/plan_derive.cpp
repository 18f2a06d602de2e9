// Derives planes, runs and lifetimes of scores from a sharing plan's sources.

#include <algorithm>
#include <map>
#include <utility>

#include "kvcache/plan/sharing_plan.h"
#include "kvcache/plan/slot_lives.h"

namespace strata::kvcache {
namespace {

size_t Index(int32_t i) { return static_cast<size_t>(i); }

std::vector<int32_t> TrueIndices(const std::vector<bool>& flags) {
  std::vector<int32_t> indices;
  for (size_t i = 0; i < flags.size(); ++i) {
    if (flags[i]) indices.push_back(static_cast<int32_t>(i));
  }
  return indices;
}

}  // namespace

void SharingPlan::DerivePlanes() {
  const std::vector<std::vector<bool>> none(Index(shape_.num_layers),
                                            std::vector<bool>(Index(shape_.num_kv_heads)));
  std::vector<std::vector<bool>> keys = none;
  std::vector<std::vector<bool>> values = none;
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    for (int32_t head = 0; head < shape_.num_query_heads; ++head) {
      const HeadSources& from = sources(layer, head);
      values[Index(from.values.layer)][Index(from.values.head)] = true;
      if (ComputesScores(layer, head)) keys[Index(from.keys.layer)][Index(from.keys.head)] = true;
    }
  }
  for (const std::vector<bool>& heads : keys) key_heads_.push_back(TrueIndices(heads));
  for (const std::vector<bool>& heads : values) value_plane_heads_.push_back(TrueIndices(heads));
}

void SharingPlan::DropDeadMixes() {
  std::vector<bool> first(Index(shape_.num_kv_heads));
  for (int32_t head : value_plane_heads_[0]) first[Index(head)] = true;
  for (int32_t layer = 1; layer < shape_.num_layers; ++layer) {
    auto& heads = mixes_[Index(layer)];
    std::vector<std::optional<ValueMix>> live(heads.size());
    for (int32_t head : value_plane_heads_[Index(layer)]) {
      live[Index(head)] = heads[Index(head)];
      if (live[Index(head)].has_value()) first[Index(head)] = true;
    }
    heads = std::move(live);
    const bool any =
        std::any_of(heads.begin(), heads.end(), [](const auto& m) { return m.has_value(); });
    if (!any) learnable_mix_[Index(layer)] = false;
  }
  first_value_heads_ = TrueIndices(first);
}

void SharingPlan::DeriveRuns() {
  // The first head, in order, with each pair of scores and values.
  std::map<std::pair<HeadRef, HeadRef>, HeadRef> first;
  output_owners_.resize(Index(shape_.num_layers));
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    for (int32_t head = 0; head < shape_.num_query_heads; ++head) {
      const HeadSources& from = sources(layer, head);
      const HeadRef self = {layer, head};
      const HeadRef owner = first.try_emplace({from.scores, from.values}, self).first->second;
      // An owner of scores computes, even if a lower head of its layer already applied them.
      output_owners_[Index(layer)].push_back(from.scores == self ? self : owner);
    }
  }
}

void SharingPlan::DeriveScoreLives() {
  std::map<HeadRef, int32_t> last_reader;  // of the scores of each reused head
  for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
    last_score_readers_.push_back(layer);
    for (int32_t head = 0; head < shape_.num_query_heads; ++head) {
      if (Run(layer, head) != HeadRun::kReuseScores) continue;
      const HeadRef owner = sources(layer, head).scores;
      last_reader[owner] = layer;
      last_score_readers_[Index(owner.layer)] = layer;
    }
  }
  const auto [slots, num_slots] = AssignSlots(last_reader);
  stored_score_heads_ = num_slots;
  score_slots_.assign(Index(shape_.num_layers),
                      std::vector<int32_t>(Index(shape_.num_query_heads), -1));
  for (const auto& [owner, slot] : slots)
    score_slots_[Index(owner.layer)][Index(owner.head)] = slot;
}

}  // namespace strata::kvcache
