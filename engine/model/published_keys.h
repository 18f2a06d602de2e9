#pragma once

#include "engine/model/config_reader.h"
#include "nlohmann/json.hpp"

namespace strata::engine {

// The key "cross_layer", or its equivalent for keys of published cross-layer architectures:
//
//   num_kv_shared_layers n          {"preset":"kv-groups","groups":[[L-n-1, L-n, .., L-1]]}
//   use_cla, cla_share_factor f     {"preset":"cla","factor":f}
//   kv_reuse_group [[..], ..]       {"preset":"kv-groups","groups":[[..], ..]}
//
// Null if config.json has none. Fails `config` if it has more than one.
nlohmann::json ReadCrossLayer(ConfigReader& config, int64_t num_layers);

}  // namespace strata::engine
