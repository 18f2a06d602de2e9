#pragma once

#include <optional>

#include "kvcache/base/json_reader.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// The plan that the key "cross_layer" asks for, or a key of a published cross-layer architecture:
//
//   num_kv_shared_layers n          the last n layers read the layer before them (Gemma)
//   use_cla, cla_share_factor f     f layers each read the first of them (Hunyuan)
//   kv_reuse_group [[..], ..]       layers of a group read its first (Hymba)
//
// nullopt if config.json has none. Fails `config` if it has more than one. REQUIRES:
// kvcache::CheckShape(shape) is OK.
std::optional<kvcache::SharingPlan> ReadCrossLayer(JsonReader& config,
                                                   const kvcache::AttentionShape& shape);

}  // namespace strata::engine
