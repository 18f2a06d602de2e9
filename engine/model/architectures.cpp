#include "engine/model/architectures.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "engine/base/json_file.h"
#include "engine/model/config_keys.h"
#include "engine/model/published_keys.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Limits far above every published model. Below them no product of two sizes overflows, and a lying
// config cannot make us allocate without end.
constexpr int64_t kMostLayers = 1024;
constexpr int64_t kMostHeads = 1024;
constexpr int64_t kMostHeadElements = 65536;
constexpr int64_t kMostHidden = int64_t{1} << 20;
constexpr int64_t kMostIntermediate = int64_t{1} << 22;
constexpr int64_t kMostTokens = int64_t{1} << 24;
constexpr int64_t kMostPositions = int64_t{1} << 24;
constexpr int64_t kMostAngles = int64_t{1} << 30;  // entries of the RoPE table
constexpr int64_t kMostInt = std::numeric_limits<int32_t>::max();

int32_t Size(JsonReader& config, std::string_view key, int64_t min, int64_t max) {
  return static_cast<int32_t>(config.Integer(key, min, max));
}

int32_t Size(JsonReader& config, std::string_view key, int64_t min, int64_t max, int32_t fallback) {
  return config.Has(key) ? Size(config, key, min, max) : fallback;
}

// Keys that every row knows: CommonValues and the sharing keys of published_keys.h.
constexpr char kCommonKeys[] =
    "architectures model_type vocab_size tie_word_embeddings torch_dtype dtype eos_token_id "
    "cross_layer num_kv_shared_layers use_cla cla_share_factor kv_reuse_group";

struct Architecture {
  std::string_view name;
  std::string_view model_type;
  std::optional<int32_t> default_window;  // of a config without sliding_window
  const char* keys;
  void (*read)(const Architecture& row, JsonReader& config, ModelSpec& spec);
  TensorNames tensor_names;
};

// Llama, and what differs from it by values alone. The last seven are names of rms_norm_eps and
// rope_theta in other configs, beside which these must stand.
constexpr char kLlamaKeys[] =
    "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "head_dim max_position_embeddings original_max_position_embeddings rms_norm_eps "
    "rope_theta rope_scaling rope_parameters partial_rotary_factor hidden_act attention_bias "
    "mlp_bias sliding_window use_sliding_window layer_types mlp_layer_types norm_eps "
    "norm_epsilon layer_norm_eps layer_norm_epsilon rope_base rotary_base rotary_emb_base";

AttentionSpec ReadHeads(JsonReader& config, const ModelSpec& spec) {
  AttentionSpec attention;
  const int32_t heads = Size(config, "num_attention_heads", 1, kMostHeads);
  attention.num_query_heads = heads;
  attention.num_kv_heads = Size(config, "num_key_value_heads", 1, heads, heads);
  if (config.ok() && heads % attention.num_kv_heads != 0) {
    config.FailExpected("num_key_value_heads", "a divisor of num_attention_heads, ", heads);
  }
  if (!config.Has("head_dim") && config.ok() && spec.hidden_size % heads != 0) {
    config.FailExpected("hidden_size", "a multiple of num_attention_heads, ", heads,
                        ", where head_dim is missing");
  }
  attention.head_dim =
      Size(config, "head_dim", 1, kMostHeadElements, std::max(1, spec.hidden_size / heads));
  attention.score_scale = 1 / std::sqrt(double{1} * attention.head_dim);
  if (int64_t{spec.max_positions} * attention.head_dim > kMostAngles) {
    config.Fail("max_position_embeddings", spec.max_positions, " times head_dim, ",
                attention.head_dim, ", is above the limit of ", kMostAngles);
  }
  return attention;
}

// A window that no sequence outgrows is none.
std::optional<int32_t> ReadWindow(const Architecture& row, JsonReader& config,
                                  int32_t max_positions) {
  constexpr std::string_view kKey = "sliding_window";
  // If the architecture itself has a window, use_sliding_window does not turn it off.
  if (!row.default_window && !config.Bool("use_sliding_window", true)) return std::nullopt;
  if (config.IsWritten(kKey) && !config.Has(kKey)) return std::nullopt;
  const std::optional<int64_t> window =
      config.Has(kKey) ? config.Integer(kKey, 0, INT64_MAX) : row.default_window;
  if (!window || *window >= max_positions) return std::nullopt;
  return static_cast<int32_t>(*window);
}

Activation ReadActivation(JsonReader& config, std::string_view key) {
  constexpr std::pair<std::string_view, Activation> kNames[] = {
      {"silu", Activation::kSilu},
      {"swish", Activation::kSilu},
      {"gelu_pytorch_tanh", Activation::kGeluTanh},
      {"gelu_new", Activation::kGeluTanh},
      {"gelu", Activation::kGelu},
      {"relu2", Activation::kRelu2},
  };
  const std::string name = config.String(key, "silu");
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  config.FailNotBuilt(key);
  return Activation::kSilu;
}

void ReadLlama(const Architecture& row, JsonReader& config, ModelSpec& spec) {
  spec.hidden_size = Size(config, "hidden_size", 1, kMostHidden);
  spec.max_positions = Size(config, "max_position_embeddings", 1, kMostPositions, 2048);
  spec.norm_epsilon =
      static_cast<float>(config.Positive("rms_norm_eps", /*max=*/1, /*fallback=*/1e-6));
  RefuseOtherNames(config, "rms_norm_eps",
                   {"norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon"});
  LayerSpec layer;
  layer.feed_forward.width = Size(config, "intermediate_size", 1, kMostIntermediate);
  layer.feed_forward.activation = ReadActivation(config, "hidden_act");
  layer.feed_forward.biases = config.Bool("mlp_bias", false);
  layer.attention = ReadHeads(config, spec);
  layer.attention.rope = ReadRope(config, layer.attention.head_dim);
  layer.attention.window = ReadWindow(row, config, spec.max_positions);
  layer.attention.qkv_biases = config.Bool("attention_bias", false);
  layer.attention.output_bias = layer.attention.qkv_biases;
  CheckAllAre(config, "layer_types", "full_attention");
  CheckAllAre(config, "mlp_layer_types", "dense");
  const int32_t layers = Size(config, "num_hidden_layers", 1, kMostLayers);
  spec.layers.assign(static_cast<size_t>(layers), layer);
}

constexpr TensorNames kLlamaTensors = {"model.embed_tokens.weight",
                                       "lm_head.weight",
                                       "model.norm.weight",
                                       "model.layers.#.input_layernorm.weight",
                                       "model.layers.#.self_attn.q_proj.weight",
                                       "model.layers.#.self_attn.k_proj.weight",
                                       "model.layers.#.self_attn.v_proj.weight",
                                       "model.layers.#.self_attn.value_mix",
                                       "model.layers.#.self_attn.o_proj.weight",
                                       "model.layers.#.post_attention_layernorm.weight",
                                       "model.layers.#.mlp.gate_proj.weight",
                                       "model.layers.#.mlp.up_proj.weight",
                                       "model.layers.#.mlp.down_proj.weight"};

// Mistral is Llama with a window. Published configs turn it off with null; transformers takes 4096
// for a config without the key.
constexpr Architecture kArchitectures[] = {
    {"LlamaForCausalLM", "llama", std::nullopt, kLlamaKeys, ReadLlama, kLlamaTensors},
    {"MistralForCausalLM", "mistral", 4096, kLlamaKeys, ReadLlama, kLlamaTensors},
};

// Null, with `config` failed, if the architecture is none of these.
const Architecture* ReadArchitecture(JsonReader& config) {
  const std::string model_type = config.String("model_type", "");
  const Json& names = config.Value("architectures");
  const bool named = !AsksForNothing(names);
  std::string known_names;
  for (const Architecture& known : kArchitectures) {
    const bool right_name = !named || names == Json::array({known.name});
    const bool right_type = model_type == known.model_type || (named && model_type.empty());
    if (right_name && right_type) return &known;
    known_names += (known_names.empty() ? "" : ", ") + std::string(known.name);
  }
  if (named) {
    config.FailNotBuilt("architectures", " with model_type ", DescribeJson(model_type),
                        "; built are ", known_names);
  } else if (model_type.empty()) {
    config.Fail("", "neither architectures nor model_type is there");
  } else {
    config.FailNotBuilt("model_type", "; built are ", known_names);
  }
  return nullptr;
}

kernels::ElementType ReadDType(JsonReader& config) {
  const std::string old_name = config.String("torch_dtype", "");
  const std::string new_name = config.String("dtype", "");
  if (!old_name.empty() && !new_name.empty() && old_name != new_name) {
    config.Fail("torch_dtype", DescribeJson(old_name), " but dtype is ", DescribeJson(new_name));
  }
  const std::string& name = new_name.empty() ? old_name : new_name;
  if (name == "bfloat16") return kernels::ElementType::kBF16;
  if (name == "float16") return kernels::ElementType::kF16;
  if (!name.empty() && name != "float32") {
    config.FailNotBuilt(new_name.empty() ? "torch_dtype" : "dtype",
                        ", only float32, bfloat16, float16");
  }
  return kernels::ElementType::kF32;
}

// A number or a list of numbers.
void AddEosIds(JsonReader& config, ModelSpec& spec) {
  constexpr char kKey[] = "eos_token_id";
  if (!config.Has(kKey)) return;
  std::vector<JsonReader> ids = {config.Member(kKey)};
  if (ids[0].value().is_array()) ids = config.Elements(kKey);
  for (JsonReader& id : ids) {
    const auto token = static_cast<int32_t>(id.Integer("", 0, spec.vocab_size - 1));
    const auto place = std::lower_bound(spec.eos_ids.begin(), spec.eos_ids.end(), token);
    if (place == spec.eos_ids.end() || *place != token) spec.eos_ids.insert(place, token);
  }
}

// Reads them as vLLM does: do_sample and the library's own defaults have no effect.
SamplingDefaults ReadSamplingDefaults(JsonReader& reader) {
  const auto integer = [&](const char* key, int64_t min) -> std::optional<int32_t> {
    if (!reader.Has(key)) return std::nullopt;
    return static_cast<int32_t>(reader.Integer(key, min, kMostInt));
  };
  SamplingDefaults defaults;
  defaults.temperature = reader.OptionalFloat("temperature", 0, std::numeric_limits<float>::max());
  defaults.top_k = integer("top_k", -1);
  if (defaults.top_k == -1) defaults.top_k = 0;  // vLLM's way to say all
  defaults.top_p = reader.OptionalFloat("top_p", 0, 1);
  defaults.min_p = reader.OptionalFloat("min_p", 0, 1);
  defaults.repetition_penalty = reader.OptionalFloat("repetition_penalty", 0.01F, 100);
  defaults.max_tokens = integer("max_new_tokens", 1);
  return defaults;
}

absl::StatusOr<ModelSpec> ReadSpec(const JsonDocument& document) {
  absl::Status status;
  JsonReader config(document.json, document.name, &status);
  const Architecture* row = ReadArchitecture(config);
  RETURN_IF_ERROR(status);

  ModelSpec spec;
  spec.architecture = row->name;
  spec.tensor_names = row->tensor_names;
  spec.vocab_size = Size(config, "vocab_size", 1, kMostTokens);
  spec.tied_embeddings = config.Bool("tie_word_embeddings", false);
  spec.dtype = ReadDType(config);
  AddEosIds(config, spec);
  row->read(*row, config, spec);
  RefuseUnknownKeys(config, row->name, Concat(kCommonKeys, " ", row->keys));
  RETURN_IF_ERROR(status);

  const absl::Status runs = CheckRuns(spec);
  if (!runs.ok()) return absl::Status(runs.code(), Concat(document.name, ": ", runs.message()));
  spec.plan = ReadCrossLayer(config, spec.shape());
  RETURN_IF_ERROR(status);
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelSpec(std::string_view config_json) {
  JsonDocument document = {"config.json", {}};
  ASSIGN_OR_RETURN(document.json, ParseJson(document.name, config_json));
  return ReadSpec(document);
}

absl::StatusOr<ModelSpec> ReadModelSpec(const ModelSource& source) {
  ASSIGN_OR_RETURN(const JsonDocument config, source.Config());
  ASSIGN_OR_RETURN(ModelSpec spec, ReadSpec(config));
  ASSIGN_OR_RETURN(const JsonDocument generation, source.GenerationConfig());
  if (generation.json.is_null()) return spec;
  absl::Status status;
  JsonReader reader(generation.json, generation.name, &status);
  AddEosIds(reader, spec);
  spec.defaults = ReadSamplingDefaults(reader);
  RETURN_IF_ERROR(status);
  return spec;
}

}  // namespace strata::engine
