#pragma once

#include "engine/model/config_reader.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

// The key "cross_layer", or what the keys of published cross-layer architectures say in its words:
//
//   num_kv_shared_layers n          {"preset":"kv-groups","groups":[[L-n-1, L-n, .., L-1]]}
//   use_cla, cla_share_factor f     {"preset":"cla","factor":f}
//   kv_reuse_group [[..], ..]       {"preset":"kv-groups","groups":[[..], ..]}
//
// Null where the config is silent. Fails `config` where two of them speak.
nlohmann::json ReadCrossLayer(ConfigReader& config, int64_t num_layers);

}  // namespace strata::engine
