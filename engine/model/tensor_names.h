#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "engine/model/tensor_source.h"

namespace strata::engine {

// Hugging Face's names of a Llama's tensors.
inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kHeadName[] = "lm_head.weight";
inline constexpr char kFinalNormName[] = "model.norm.weight";

// LayerTensorName(3, "self_attn.q_proj.weight") = "model.layers.3.self_attn.q_proj.weight"
inline std::string LayerTensorName(int32_t layer, std::string_view rest) {
  return "model.layers." + std::to_string(layer) + "." + std::string(rest);
}

// [2] = [own, first], for a learnable mix of a ResFormer.
inline constexpr char kValueMixName[] = "self_attn.value_mix";

// OK if every tensor is one of the above, or belongs to a layer below `num_layers`, or is known to
// be unused: a table of angles (rotary_emb.inv_freq). INVALID_ARGUMENT, one line that begins with
// `where` and names the first other tensor and the number of further ones. A bias, a norm or a
// layer that config.json does not mention would still be a part of the model.
absl::Status CheckTensorNames(std::string_view where, const TensorSource& tensors,
                              std::string_view architecture, int32_t num_layers);

}  // namespace strata::engine
