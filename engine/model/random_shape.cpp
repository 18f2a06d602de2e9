#include "engine/model/random_shape.h"

#include <algorithm>
#include <bit>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/tensors_of.h"
#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

constexpr size_t kPlaces = 4096;  // starts of tensors within the drawn numbers

uint16_t ToBf16(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

int64_t Elements(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

class RandomTensors final : public TensorSource {
 public:
  explicit RandomTensors(const ModelSpec& spec);

  bool Has(std::string_view name) const override { return shapes_.contains(name); }
  absl::StatusOr<TensorView> Find(std::string_view name) const override;
  std::vector<std::string> Names() const override;
  void Release(const TensorView&) const override {}  // the next tensor uses the same memory

 private:
  std::map<std::string, std::vector<int64_t>, std::less<>> shapes_;
  std::map<std::string, std::vector<int64_t>, std::less<>> mixes_;  // there if a plan asks for them
  std::vector<uint16_t> drawn_;                                     // bf16
  std::vector<uint16_t> ones_;
};

RandomTensors::RandomTensors(const ModelSpec& spec) {
  for (const TensorSpec& tensor : TensorsOf(spec, kvcache::SharingPlan::Plain(spec.shape()))) {
    const bool is_mix = tensor.role == TensorRole::kValueMix;
    if (tensor.needed || is_mix) (is_mix ? mixes_ : shapes_).emplace(tensor.name, tensor.shape);
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
  ones_.assign(static_cast<size_t>(spec.hidden_size), ToBf16(1.0F));
}

absl::StatusOr<TensorView> RandomTensors::Find(std::string_view name) const {
  auto found = shapes_.find(name);
  if (found == shapes_.end()) found = mixes_.find(name);
  if (found == mixes_.end()) return NotFound("tensor ", name, " is missing");
  const std::vector<int64_t>& shape = found->second;
  const size_t place = std::hash<std::string_view>()(name) % kPlaces;
  const uint16_t* data = shape.size() == 1 ? ones_.data() : drawn_.data() + place;
  return TensorView{.dtype = kernels::ElementType::kBF16,
                    .shape = shape,
                    .data = reinterpret_cast<const std::byte*>(data),
                    .bytes = static_cast<size_t>(Elements(shape)) * sizeof(uint16_t)};
}

std::vector<std::string> RandomTensors::Names() const {
  std::vector<std::string> names;
  for (const auto& [name, shape] : shapes_) names.push_back(name);
  return names;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RandomShape>> RandomShape::Named(std::string_view name) {
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
    names += (names.empty() ? "" : ", ") + std::string(shape.name);
    if (shape.name != name) continue;
    JsonDocument config = {Concat("shape ", name),
                           {{"architectures", {"LlamaForCausalLM"}},
                            {"num_hidden_layers", shape.layers},
                            {"hidden_size", shape.hidden},
                            {"num_attention_heads", shape.heads},
                            {"num_key_value_heads", shape.kv_heads},
                            {"head_dim", shape.head_dim},
                            {"intermediate_size", shape.intermediate},
                            {"vocab_size", shape.vocab},
                            {"tie_word_embeddings", shape.tied},
                            {"max_position_embeddings", shape.positions},
                            {"rms_norm_eps", 1e-5},
                            {"rope_theta", shape.theta},
                            {"dtype", "bfloat16"}}};
    return std::unique_ptr<RandomShape>(new RandomShape(std::string(name), std::move(config)));
  }
  return InvalidArgument("shape: \"", name, "\" is not one of ", names);
}

absl::StatusOr<TokenizerDescription> RandomShape::Tokenizer() const {
  return TokenizerDescription{.words = config_.json["vocab_size"].get<int32_t>()};
}

absl::StatusOr<std::unique_ptr<TensorSource>> RandomShape::OpenTensors() const {
  ASSIGN_OR_RETURN(const ModelSpec spec, ReadModelSpec(*this));
  return std::unique_ptr<TensorSource>(new RandomTensors(spec));
}

}  // namespace strata::engine
