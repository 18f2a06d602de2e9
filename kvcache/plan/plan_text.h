#pragma once

#include <span>
#include <string>
#include <vector>

#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// Heads in increasing order as ranges: "0-3, 5".
std::string DescribeHeads(std::span<const int32_t> heads);

// The sources of a layer's heads in few words, from[i] being head i's and same[i] its own head of
// the same name in `layer`: "own", "3" (layer 3, every head from the same head), or, if heads
// differ, "heads 0-1 from layer 2 heads 2-3, 2-3 own".
std::string DescribeSources(int32_t layer, std::span<const HeadRef> from,
                            std::span<const HeadRef> same);

// The value mixes of a layer: "0.5 own + 0.5 first", "learnable", "" if it has none.
std::string DescribeMix(const SharingPlan& plan, int32_t layer);

}  // namespace strata::kvcache
