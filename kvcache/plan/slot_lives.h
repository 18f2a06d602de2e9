#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// Assigns slots to products of heads that later layers take. `last_reader`: for each head whose
// product is kept, the last layer that takes it. Each head gets the lowest slot that is free from
// its own layer to that layer. Returns the slots and their total number.
inline std::pair<std::map<HeadRef, int32_t>, int32_t> AssignSlots(
    const std::map<HeadRef, int32_t>& last_reader) {
  std::map<HeadRef, int32_t> slots;
  std::vector<int32_t> busy_until;                 // [slot]: the last layer that takes its content
  for (const auto& [owner, last] : last_reader) {  // in order of layers
    const int32_t layer = owner.layer;
    const auto free = std::find_if(busy_until.begin(), busy_until.end(),
                                   [layer](int32_t until) { return until < layer; });
    slots[owner] = static_cast<int32_t>(free - busy_until.begin());
    if (free == busy_until.end()) {
      busy_until.push_back(last);
    } else {
      *free = last;
    }
  }
  return {std::move(slots), static_cast<int32_t>(busy_until.size())};
}

}  // namespace strata::kvcache
