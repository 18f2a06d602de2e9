#pragma once

#include "engine/base/json_reader.h"
#include "engine/model/model_config.h"

namespace strata::engine {

// Reads rope_theta and rope_scaling, or rope_parameters (the newer name, which holds rope_theta
// too). Fails `config` if they contradict each other, or with UNIMPLEMENTED for a rope_type other
// than "default", "linear" and "llama3".
RopeConfig ReadRope(JsonReader& config);

}  // namespace strata::engine
