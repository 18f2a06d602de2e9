#include "engine/model/random_tensors.h"

#include <algorithm>
#include <bit>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/errors.h"
#include "engine/model/tensor_names.h"

namespace strata::engine {
namespace {

constexpr size_t kPlaces = 4096;  // starts of tensors within the drawn numbers

uint16_t ToBf16(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

}  // namespace

RandomTensors::RandomTensors(const ModelConfig& config) {
  const kvcache::AttentionShape& shape = config.attention;
  const int64_t hidden = config.hidden_size;
  const int64_t queries = int64_t{shape.num_query_heads} * shape.head_dim;
  const int64_t keys = int64_t{shape.num_kv_heads} * shape.head_dim;
  Add(kEmbeddingName, {config.vocab_size, hidden});
  if (!config.tied_embeddings) Add(kHeadName, {config.vocab_size, hidden});
  Add(kFinalNormName, {hidden});
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const auto add = [&](std::string_view name, std::vector<int64_t> dimensions) {
      Add(LayerTensorName(layer, name), std::move(dimensions));
    };
    add("input_layernorm.weight", {hidden});
    add("self_attn.q_proj.weight", {queries, hidden});
    add("self_attn.k_proj.weight", {keys, hidden});
    add("self_attn.v_proj.weight", {keys, hidden});
    add("self_attn.o_proj.weight", {hidden, queries});
    add("post_attention_layernorm.weight", {hidden});
    add("mlp.gate_proj.weight", {config.intermediate_size, hidden});
    add("mlp.up_proj.weight", {config.intermediate_size, hidden});
    add("mlp.down_proj.weight", {hidden, config.intermediate_size});
  }
  int64_t largest = 0;
  for (const auto& [name, dimensions] : shapes_) largest = std::max(largest, Elements(dimensions));
  drawn_.resize(static_cast<size_t>(largest) + kPlaces);
  // The sum of four uniform numbers is nearly normal, and quick to draw by the billion.
  std::mt19937_64 random(1);
  for (uint16_t& value : drawn_) {
    const uint64_t bits = random();
    float sum = 0;
    for (int part = 0; part < 4; ++part) {
      sum += static_cast<float>((bits >> (16 * part)) & 0xffff) / 65536.0F - 0.5F;
    }
    value = ToBf16(sum * 0.02F * 1.732F);
  }
  ones_.assign(static_cast<size_t>(hidden), ToBf16(1.0F));
}

void RandomTensors::Add(std::string name, std::vector<int64_t> shape) {
  shapes_.emplace(std::move(name), std::move(shape));
}

bool RandomTensors::Has(std::string_view name) const { return shapes_.contains(name); }

absl::StatusOr<TensorView> RandomTensors::Find(std::string_view name) const {
  static const std::vector<int64_t> kMix = {2};  // of a learnable mix, in any layer with one
  const auto found = shapes_.find(name);
  const bool is_mix = found == shapes_.end() && name.ends_with(kValueMixName);
  if (found == shapes_.end() && !is_mix) return NotFound("tensor ", name, " is missing");
  const std::vector<int64_t>& shape = is_mix ? kMix : found->second;
  const size_t place = std::hash<std::string_view>()(name) % kPlaces;
  const uint16_t* data = shape.size() == 1 ? ones_.data() : drawn_.data() + place;
  return TensorView{.dtype = kernels::DType::kBF16,
                    .shape = shape,
                    .data = reinterpret_cast<const std::byte*>(data),
                    .bytes = static_cast<size_t>(Elements(shape)) * sizeof(uint16_t)};
}

std::vector<std::string> RandomTensors::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, shape] : shapes_) names.push_back(name);
  return names;
}

absl::StatusOr<ModelConfig> NamedShape(std::string_view name) {
  struct Shape {
    std::string_view name;
    int32_t layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
    bool tied;
    int32_t positions;
    double theta;
  };
  static constexpr Shape kShapes[] = {
      // The models of tests/reference: with plain and with grouped heads.
      {"reference-2m", 8, 128, 4, 4, 32, 352, 2048, true, 8192, 1e4},
      {"reference-2m-gqa", 8, 128, 4, 2, 32, 352, 2048, true, 8192, 1e4},
      {"smollm-135m", 30, 576, 9, 3, 64, 1536, 49152, true, 8192, 1e5},
      {"smollm-360m", 32, 960, 15, 5, 64, 2560, 49152, true, 8192, 1e5},
      {"smollm-1.7b", 24, 2048, 32, 32, 64, 8192, 49152, true, 8192, 1.3e5},
      {"tinyllama-1.1b", 22, 2048, 32, 4, 64, 5632, 32000, false, 8192, 1e4},
      {"llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, true, 131072, 5e5},
      {"llama-3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, true, 131072, 5e5},
      {"llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, false, 131072, 5e5},
  };
  std::string names;
  for (const Shape& shape : kShapes) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", std::string(shape.name));
    if (shape.name != name) continue;
    ModelConfig config;
    config.architecture = "LlamaForCausalLM";
    config.attention = {shape.layers, shape.heads, shape.kv_heads, shape.head_dim};
    config.hidden_size = shape.hidden;
    config.intermediate_size = shape.intermediate;
    config.vocab_size = shape.vocab;
    config.max_positions = shape.positions;
    config.rms_norm_eps = 1e-5F;
    config.tied_embeddings = shape.tied;
    config.rope.theta = shape.theta;
    config.dtype = kernels::DType::kBF16;
    return config;
  }
  return InvalidArgument("shape: \"", name, "\" is not one of ", names);
}

}  // namespace strata::engine
