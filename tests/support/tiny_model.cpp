#include "tests/support/tiny_model.h"

#include <stdlib.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numbers>
#include <utility>

#include "kernels/check.h"
#include "kvcache/plan/plan_parser.h"

namespace strata::testing {
namespace {

using kernels::ElementType;
using kvcache::SharingPlan;

// Counter-based: the value at `index` of the stream named by `key`.
class Gaussian {
 public:
  explicit Gaussian(uint64_t key) : key_(key) {}

  double At(uint64_t index) const {
    const double radius = std::sqrt(-2 * std::log(Uniform(2 * index)));
    return radius * std::cos(2 * std::numbers::pi * Uniform(2 * index + 1));
  }

 private:
  // In (0, 1]; the mixer is splitmix64.
  double Uniform(uint64_t counter) const {
    uint64_t bits = key_ + (counter + 1) * 0x9E3779B97F4A7C15U;
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9U;
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBU;
    bits ^= bits >> 31;
    return static_cast<double>((bits >> 11) + 1) * 0x1p-53;
  }

  uint64_t key_;
};

uint64_t StreamKey(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325U ^ (seed * 0x9E3779B97F4A7C15U);  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  return hash;
}

// The nearest float16, ties to even. REQUIRES: |value| < 65504.
uint16_t Float16Bits(float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  const int exponent = magnitude == 0 ? -14 : std::max(std::ilogb(magnitude), -14);
  // In units of the last place: 1024 to 2048, fewer if the number is subnormal. Added to the bits
  // of the exponent, so that a carry to 2048 gives the next exponent by itself.
  const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  const uint32_t bits = (static_cast<uint32_t>(exponent + 14) << 10) + units;
  return static_cast<uint16_t>(bits | (std::signbit(value) ? 0x8000U : 0U));
}

// The nearest bfloat16, ties to even. REQUIRES: `value` is finite.
uint16_t BFloat16Bits(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

float RoundTo(ElementType dtype, float value) {
  if (dtype == ElementType::kBF16) return std::bit_cast<float>(uint32_t{BFloat16Bits(value)} << 16);
  if (dtype == ElementType::kF16 && value != 0) {
    const int exponent = std::max(std::ilogb(value), -14);
    return std::ldexp(std::nearbyint(std::ldexp(value, 10 - exponent)), exponent - 10);
  }
  return value;
}

void AppendBytes(ElementType dtype, float value, std::string& bytes) {
  if (dtype == ElementType::kF32) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return;
  }
  const uint16_t bits = dtype == ElementType::kBF16 ? BFloat16Bits(value) : Float16Bits(value);
  bytes.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
}

const char* SafetensorsName(ElementType dtype) {
  return dtype == ElementType::kF32 ? "F32" : dtype == ElementType::kBF16 ? "BF16" : "F16";
}

const char* ConfigName(ElementType dtype) {
  return dtype == ElementType::kF32    ? "float32"
         : dtype == ElementType::kBF16 ? "bfloat16"
                                       : "float16";
}

class Maker {
 public:
  explicit Maker(const TinyModelOptions& options) : options_(options) {}

  void Add(const std::string& name, std::vector<int64_t> shape, double mean, double deviation) {
    int64_t size = 1;
    for (const int64_t length : shape) size *= length;
    NamedTensor tensor{.name = name, .shape = std::move(shape), .data = {}};
    const Gaussian gaussian(StreamKey(options_.seed, name));
    for (int64_t i = 0; i < size; ++i) {
      const double value = mean + deviation * gaussian.At(static_cast<uint64_t>(i));
      tensor.data.push_back(RoundTo(options_.dtype, static_cast<float>(value)));
    }
    tensors_.push_back(std::move(tensor));
  }

  // `heads` of `all` heads' rows; with trim the others are cut out.
  void AddHeads(const std::string& name, const std::vector<int32_t>& heads, int32_t all,
                double deviation) {
    if (options_.trim && heads.empty()) return;
    const int64_t d = options_.attention.head_dim;
    Add(name, {all * d, options_.hidden_size}, 0, deviation);
    if (!options_.trim) return;
    NamedTensor& tensor = tensors_.back();
    const std::vector<float> full = std::exchange(tensor.data, {});
    const int64_t head_size = d * options_.hidden_size;
    for (const int32_t head : heads) {
      const auto rows = full.begin() + head * head_size;
      tensor.data.insert(tensor.data.end(), rows, rows + head_size);
    }
    tensor.shape[0] = static_cast<int64_t>(heads.size()) * d;
  }

  std::vector<NamedTensor> Finish() {
    std::sort(tensors_.begin(), tensors_.end(),
              [](const NamedTensor& a, const NamedTensor& b) { return a.name < b.name; });
    return std::move(tensors_);
  }

 private:
  const TinyModelOptions& options_;
  std::vector<NamedTensor> tensors_;
};

// A product of n unit terms with weights of deviation sqrt(v / n) has variance v: v = 2 for queries
// and keys, so that scores have deviation 2, and 1 elsewhere.
void AddLayer(const TinyModelOptions& options, const SharingPlan& plan, int32_t layer,
              Maker& maker) {
  const auto& shape = options.attention;
  const int64_t hidden = options.hidden_size;
  const int64_t width = int64_t{shape.num_query_heads} * shape.head_dim;
  const double unit = 1 / std::sqrt(hidden);
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const std::string attention = prefix + "self_attn.";

  maker.Add(prefix + "input_layernorm.weight", {hidden}, 1, 0.1);
  maker.Add(prefix + "post_attention_layernorm.weight", {hidden}, 1, 0.1);
  maker.AddHeads(attention + "q_proj.weight", plan.QueryHeads(layer), shape.num_query_heads,
                 std::numbers::sqrt2 * unit);
  maker.AddHeads(attention + "k_proj.weight", plan.KeyHeads(layer), shape.num_kv_heads,
                 std::numbers::sqrt2 * unit);
  maker.AddHeads(attention + "v_proj.weight", plan.ValueHeads(layer), shape.num_kv_heads, unit);
  if (plan.learnable_mix(layer)) maker.Add(attention + "value_mix", {2}, 0.5, 0.2);
  maker.Add(attention + "o_proj.weight", {hidden, width}, 0,
            1 / std::sqrt(static_cast<double>(width)));
  maker.Add(prefix + "mlp.gate_proj.weight", {options.intermediate_size, hidden}, 0, unit);
  maker.Add(prefix + "mlp.up_proj.weight", {options.intermediate_size, hidden}, 0, unit);
  maker.Add(prefix + "mlp.down_proj.weight", {hidden, options.intermediate_size}, 0,
            1 / std::sqrt(options.intermediate_size));
}

std::string ConfigJson(const TinyModelOptions& options) {
  nlohmann::json config = {{"architectures", {"LlamaForCausalLM"}},
                           {"model_type", "llama"},
                           {"hidden_act", "silu"},
                           {"hidden_size", options.hidden_size},
                           {"intermediate_size", options.intermediate_size},
                           {"num_hidden_layers", options.attention.num_layers},
                           {"num_attention_heads", options.attention.num_query_heads},
                           {"num_key_value_heads", options.attention.num_kv_heads},
                           {"head_dim", options.attention.head_dim},
                           {"vocab_size", options.vocab_size},
                           {"max_position_embeddings", options.max_positions},
                           {"rms_norm_eps", 1e-5},
                           {"rope_theta", 10000.0},
                           {"tie_word_embeddings", options.tied},
                           {"torch_dtype", ConfigName(options.dtype)},
                           {"eos_token_id", 0}};
  if (!options.cross_layer.is_null()) config["cross_layer"] = options.cross_layer;
  return config.dump(2);
}

}  // namespace

const NamedTensor& TinyModel::Tensor(std::string_view name) const {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const NamedTensor& tensor) { return tensor.name == name; });
  STRATA_CHECK(found != tensors.end(), "the model has that tensor");
  return *found;
}

std::string TinyModel::Safetensors() const {
  nlohmann::json header;
  std::string data;
  for (const NamedTensor& tensor : tensors) {
    const size_t begin = data.size();
    for (const float value : tensor.data) AppendBytes(options.dtype, value, data);
    header[tensor.name] = {{"dtype", SafetensorsName(options.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header.dump(), data);
}

TinyModel MakeTinyModel(const TinyModelOptions& options) {
  const auto plan = kvcache::ParsePlan(options.cross_layer, options.attention);
  STRATA_CHECK(plan.ok(), plan.status().ToString().c_str());
  const std::vector<int64_t> table = {options.vocab_size, options.hidden_size};
  const double deviation = 2 / std::sqrt(options.hidden_size);
  Maker maker(options);
  maker.Add("model.embed_tokens.weight", table, 0, deviation);
  if (!options.tied) maker.Add("lm_head.weight", table, 0, deviation);
  maker.Add("model.norm.weight", {options.hidden_size}, 1, 0.1);
  for (int32_t layer = 0; layer < options.attention.num_layers; ++layer) {
    AddLayer(options, *plan, layer, maker);
  }
  return {.options = options, .config_json = ConfigJson(options), .tensors = maker.Finish()};
}

std::filesystem::path WriteModelDir(const TinyModel& model, const std::filesystem::path& parent) {
  std::filesystem::create_directories(parent);
  std::string dir = (parent / "model-XXXXXX").string();
  STRATA_CHECK(mkdtemp(dir.data()) != nullptr, "the parent folder takes a new one");
  WriteFile(std::filesystem::path(dir) / "config.json", model.config_json);
  WriteFile(std::filesystem::path(dir) / "model.safetensors", model.Safetensors());
  return dir;
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  return file.append(header).append(data);
}

void WriteFile(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  STRATA_CHECK(file.good(), "a test's file is written");
}

}  // namespace strata::testing
