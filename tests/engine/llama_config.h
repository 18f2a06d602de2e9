#pragma once

#include "nlohmann/json.hpp"

namespace strata::testing {

// The config.json of a small Llama that says no more than it must.
inline nlohmann::json LlamaConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 6},
          {"num_attention_heads", 8},
          {"vocab_size", 100}};
}

}  // namespace strata::testing
