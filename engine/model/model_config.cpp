#include "engine/model/model_config.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "engine/base/json_file.h"
#include "engine/model/config_reader.h"
#include "engine/model/config_rules.h"
#include "engine/model/published_keys.h"
#include "engine/model/rope.h"
#include "kernels/status_macros.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Limits far above every published model of this family. Below them no product of two sizes
// overflows, and a lying config cannot make us allocate without end.
constexpr IntRange kLayers = {.min = 1, .max = 1024};
constexpr IntRange kHeads = {.min = 1, .max = 1024};
constexpr IntRange kHeadDim = {.min = 2, .max = 256};  // the kernels' limit
constexpr IntRange kHidden = {.min = 1, .max = int64_t{1} << 20};
constexpr IntRange kIntermediate = {.min = 1, .max = int64_t{1} << 22};
constexpr IntRange kVocab = {.min = 1, .max = int64_t{1} << 24};
constexpr IntRange kPositions = {.min = 1, .max = int64_t{1} << 24};
constexpr int64_t kMaxAngles = int64_t{1} << 30;  // entries of the RoPE table
constexpr size_t kMaxFileBytes = size_t{16} << 20;

struct Architecture {
  std::string_view name;
  std::string_view model_type;
  int64_t default_window;  // the window of a config without sliding_window
};

// Mistral is Llama with a window. Published configs turn it off with null; transformers takes 4096
// for a config without the key.
constexpr Architecture kArchitectures[] = {
    {.name = "LlamaForCausalLM", .model_type = "llama", .default_window = 0},
    {.name = "MistralForCausalLM", .model_type = "mistral", .default_window = 4096},
};

// Null, with `config` failed, if the architecture is none of these.
const Architecture* ReadArchitecture(ConfigReader& config) {
  const std::string model_type = config.String("model_type");
  const Json* names = config.Get("architectures");
  const bool named = names != nullptr && *names != Json::array();
  for (const Architecture& known : kArchitectures) {
    const bool right_name = !named || *names == Json::array({known.name});
    const bool right_type = model_type == known.model_type || (named && model_type.empty());
    if (right_name && right_type) return &known;
  }
  if (!named && model_type.empty()) {
    config.Refuse("neither architectures nor model_type is there");
  }
  config.NotBuilt("architectures = ", names == nullptr ? "null" : PrintableJson(*names),
                  " with model_type = \"", Printable(model_type), "\" is not built, only ",
                  kArchitectures[0].name, " and ", kArchitectures[1].name, " are");
  return nullptr;
}

kernels::DType ReadDType(ConfigReader& config) {
  const std::string old_name = config.String("torch_dtype");
  const std::string new_name = config.String("dtype");
  if (!old_name.empty() && !new_name.empty() && old_name != new_name) {
    config.Refuse("torch_dtype = ", Printable(old_name), " but dtype = ", Printable(new_name));
  }
  const std::string& name = new_name.empty() ? old_name : new_name;
  if (name == "bfloat16") return kernels::DType::kBF16;
  if (name == "float16") return kernels::DType::kF16;
  if (!name.empty() && name != "float32") {
    config.NotBuilt("dtype = ", Printable(name), " is not built, only float32, bfloat16, float16");
  }
  return kernels::DType::kF32;
}

void ReadSizes(ConfigReader& config, ModelConfig& model) {
  const auto required = [&config](std::string_view key, IntRange range) {
    return static_cast<int32_t>(config.RequiredInt(key, range));
  };
  model.hidden_size = required("hidden_size", kHidden);
  model.intermediate_size = required("intermediate_size", kIntermediate);
  model.vocab_size = required("vocab_size", kVocab);
  model.max_positions =
      static_cast<int32_t>(config.Int("max_position_embeddings", 2048, kPositions));

  kvcache::AttentionShape& shape = model.attention;
  shape.num_layers = required("num_hidden_layers", kLayers);
  shape.num_query_heads = required("num_attention_heads", kHeads);
  shape.num_kv_heads = static_cast<int32_t>(config.Int("num_key_value_heads", shape.num_query_heads,
                                                       {.min = 1, .max = shape.num_query_heads}));
  if (config.ok() && shape.num_query_heads % shape.num_kv_heads != 0) {
    config.Refuse("num_key_value_heads = ", shape.num_kv_heads,
                  ", want a divisor of num_attention_heads = ", shape.num_query_heads);
  }
  if (config.Has("head_dim")) {
    shape.head_dim = static_cast<int32_t>(config.Int("head_dim", 0, kHeadDim));
  } else if (config.ok() && model.hidden_size % shape.num_query_heads != 0) {
    config.Refuse("hidden_size = ", model.hidden_size,
                  ", want a multiple of num_attention_heads = ", shape.num_query_heads,
                  " where head_dim is missing");
  } else if (config.ok()) {
    shape.head_dim = model.hidden_size / shape.num_query_heads;
  }
  if (shape.head_dim % 2 != 0 || shape.head_dim > kHeadDim.max) {
    config.Refuse("head_dim = ", shape.head_dim, ", want an even number from ", kHeadDim.min,
                  " to ", kHeadDim.max);
  }
  if (int64_t{model.max_positions} * shape.head_dim > kMaxAngles) {
    config.Refuse("max_position_embeddings = ", model.max_positions,
                  " times head_dim = ", shape.head_dim, " is above the limit of ", kMaxAngles);
  }
}

void AddEosIds(ConfigReader& config, ModelConfig& model) {
  for (const int64_t id : config.IntList("eos_token_id", {.min = 0, .max = model.vocab_size - 1})) {
    const auto token = static_cast<int32_t>(id);
    const auto place = std::lower_bound(model.eos_ids.begin(), model.eos_ids.end(), token);
    if (place == model.eos_ids.end() || *place != token) model.eos_ids.insert(place, token);
  }
}

// Reads them as vLLM does: do_sample and the library's own defaults have no effect.
SamplingDefaults ReadSamplingDefaults(ConfigReader& reader) {
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  const auto integer = [&](const char* key, IntRange range) -> std::optional<int32_t> {
    if (!reader.Has(key)) return std::nullopt;
    return static_cast<int32_t>(reader.Int(key, range.min, range));
  };
  SamplingDefaults defaults;
  defaults.temperature = reader.OptionalFloat("temperature", 0, std::numeric_limits<float>::max());
  defaults.top_k = integer("top_k", {-1, kMaxInt});
  if (defaults.top_k == -1) defaults.top_k = 0;  // vLLM's way to say all
  defaults.top_p = reader.OptionalFloat("top_p", 0, 1);
  defaults.min_p = reader.OptionalFloat("min_p", 0, 1);
  defaults.repetition_penalty = reader.OptionalFloat("repetition_penalty", 0.01F, 100);
  defaults.max_tokens = integer("max_new_tokens", {1, kMaxInt});
  return defaults;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& name, const Json& json) {
  if (!json.is_object()) return InvalidArgument(name, ": not a JSON object");
  ConfigReader config(name, json);
  const Architecture* architecture = ReadArchitecture(config);
  if (architecture == nullptr) return config.status();

  ModelConfig model;
  model.architecture = architecture->name;
  ReadSizes(config, model);
  model.rms_norm_eps = static_cast<float>(config.Positive("rms_norm_eps", 1e-6, 1));
  if (!config.Has("rms_norm_eps")) {
    config.RefuseOtherNames("rms_norm_eps",
                            {"norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon"});
  }
  model.tied_embeddings = config.Bool("tie_word_embeddings", false);
  model.rope = ReadRope(config);
  model.dtype = ReadDType(config);
  AddEosIds(config, model);
  CheckMathematics(config, model.max_positions, architecture->default_window);
  model.cross_layer = ReadCrossLayer(config, model.attention.num_layers);
  if (!config.ok()) return config.status();
  return model;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text) {
  const std::string name = "config.json";
  ASSIGN_OR_RETURN(Json json, ParseJson(name, json_text));
  return ReadModelConfig(name, json);
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "config.json";
  ASSIGN_OR_RETURN(Json json, ReadJsonFile(path, kMaxFileBytes));
  absl::StatusOr<ModelConfig> model = ReadModelConfig(path.string(), json);
  if (!model.ok()) return model;

  const std::filesystem::path generation_path = dir / "generation_config.json";
  absl::StatusOr<Json> generation = ReadJsonFile(generation_path, kMaxFileBytes);
  if (absl::IsNotFound(generation.status())) return model;
  if (!generation.ok()) return generation.status();
  if (!generation->is_object()) {
    return InvalidArgument(generation_path.string(), ": not a JSON object");
  }
  ConfigReader reader(generation_path.string(), *generation);
  AddEosIds(reader, *model);
  model->defaults = ReadSamplingDefaults(reader);
  if (!reader.ok()) return reader.status();
  return model;
}

}  // namespace strata::engine
