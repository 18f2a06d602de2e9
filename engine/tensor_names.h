#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace strata::engine {

// Hugging Face's names of a Llama's tensors.
inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";
inline constexpr char kFinalNormName[] = "model.norm.weight";

// LayerTensorName(3, "self_attn.q_proj.weight") = "model.layers.3.self_attn.q_proj.weight"
inline std::string LayerTensorName(int32_t layer, std::string_view rest) {
  return "model.layers." + std::to_string(layer) + "." + std::string(rest);
}

// [2] = [own, first], where a ResFormer's mix is learnable.
inline constexpr char kValueMixName[] = "self_attn.value_mix";

}  // namespace strata::engine
