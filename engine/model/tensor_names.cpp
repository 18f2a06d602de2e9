#include "engine/model/tensor_names.h"

#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/numbers.h"
#include "engine/base/errors.h"
#include "engine/base/json_file.h"

namespace strata::engine {
namespace {

// A layer's tensors, after "model.layers.N.".
constexpr std::array<std::string_view, 10> kLayerTensors = {"input_layernorm.weight",
                                                            "self_attn.q_proj.weight",
                                                            "self_attn.k_proj.weight",
                                                            "self_attn.v_proj.weight",
                                                            kValueMixName,
                                                            "self_attn.o_proj.weight",
                                                            "post_attention_layernorm.weight",
                                                            "mlp.gate_proj.weight",
                                                            "mlp.up_proj.weight",
                                                            "mlp.down_proj.weight"};

// Tables of angles that old versions of transformers and ColossalAI stored, in each layer's
// attention or once in the model. config.json has the numbers that they were made from.
constexpr std::array<std::string_view, 3> kDeadTensors = {
    "rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"};

bool IsOneOf(std::string_view name, std::span<const std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool TakePrefix(std::string_view prefix, std::string_view& name) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  return true;
}

// Takes "N." with 0 <= N < num_layers, as LayerTensorName writes it.
bool TakeLayer(int32_t num_layers, std::string_view& name) {
  const std::string digits(name.substr(0, name.find('.')));
  int32_t layer = -1;
  if (!absl::SimpleAtoi(digits, &layer) || layer < 0 || layer >= num_layers) return false;
  return TakePrefix(std::to_string(layer) + ".", name);
}

bool IsKnown(std::string_view name, int32_t num_layers) {
  if (name == kEmbeddingName || name == kHeadName || name == kFinalNormName) return true;
  if (!TakePrefix("model.", name)) return false;
  if (!TakePrefix("layers.", name)) return IsOneOf(name, kDeadTensors);
  if (!TakeLayer(num_layers, name)) return false;
  if (IsOneOf(name, kLayerTensors)) return true;
  return TakePrefix("self_attn.", name) && IsOneOf(name, kDeadTensors);
}

}  // namespace

absl::Status CheckTensorNames(std::string_view where, const TensorSource& tensors,
                              std::string_view architecture, int32_t num_layers) {
  std::string first;
  int64_t others = 0;
  for (std::string& name : tensors.Names()) {
    if (IsKnown(name, num_layers)) continue;
    if (first.empty()) {
      first = Printable(name);
    } else {
      ++others;
    }
  }
  if (first.empty()) return absl::OkStatus();
  const std::string more = others == 0 ? "" : Concat(" (and ", others, " more)");
  return InvalidArgument(where, ": tensor ", first, more, " has no place in ", architecture, " of ",
                         num_layers, " layers; without it the answers would be wrong");
}

}  // namespace strata::engine
