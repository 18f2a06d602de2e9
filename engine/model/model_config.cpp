#include "engine/model/model_config.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "engine/base/json_file.h"
#include "engine/base/json_reader.h"
#include "engine/model/config_rules.h"
#include "engine/model/published_keys.h"
#include "engine/model/rope.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// Limits far above every published model of this family. Below them no product of two sizes
// overflows, and a lying config cannot make us allocate without end.
struct Range {
  int64_t min;
  int64_t max;
};
constexpr Range kLayers = {.min = 1, .max = 1024};
constexpr Range kHeads = {.min = 1, .max = 1024};
constexpr Range kHeadDim = {.min = 2, .max = 256};  // the kernels' limit
constexpr Range kHidden = {.min = 1, .max = int64_t{1} << 20};
constexpr Range kIntermediate = {.min = 1, .max = int64_t{1} << 22};
constexpr Range kVocab = {.min = 1, .max = int64_t{1} << 24};
constexpr Range kPositions = {.min = 1, .max = int64_t{1} << 24};
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
const Architecture* ReadArchitecture(JsonReader& config) {
  const std::string model_type = config.String("model_type", "");
  const Json& names = config.Value("architectures");
  const bool named = !AsksForNothing(names);
  for (const Architecture& known : kArchitectures) {
    const bool right_name = !named || names == Json::array({known.name});
    const bool right_type = model_type == known.model_type || (named && model_type.empty());
    if (right_name && right_type) return &known;
  }
  if (!named && model_type.empty()) {
    config.Fail("", "neither architectures nor model_type is there");
  }
  const std::string only =
      Concat(", only ", kArchitectures[0].name, " and ", kArchitectures[1].name, " are");
  if (named) {
    config.FailNotBuilt("architectures", " with model_type ", DescribeJson(model_type), only);
  } else {
    config.FailNotBuilt("model_type", only);
  }
  return nullptr;
}

kernels::DType ReadDType(JsonReader& config) {
  const std::string old_name = config.String("torch_dtype", "");
  const std::string new_name = config.String("dtype", "");
  if (!old_name.empty() && !new_name.empty() && old_name != new_name) {
    config.Fail("torch_dtype", DescribeJson(old_name), " but dtype is ", DescribeJson(new_name));
  }
  const std::string& name = new_name.empty() ? old_name : new_name;
  if (name == "bfloat16") return kernels::DType::kBF16;
  if (name == "float16") return kernels::DType::kF16;
  if (!name.empty() && name != "float32") {
    config.FailNotBuilt(new_name.empty() ? "torch_dtype" : "dtype",
                        ", only float32, bfloat16, float16");
  }
  return kernels::DType::kF32;
}

void ReadSizes(JsonReader& config, ModelConfig& model) {
  const auto required = [&config](std::string_view key, Range range) {
    return static_cast<int32_t>(config.Integer(key, range.min, range.max));
  };
  const auto optional = [&config](std::string_view key, Range range, int32_t fallback) {
    return static_cast<int32_t>(
        config.OptionalInteger(key, range.min, range.max).value_or(fallback));
  };
  model.hidden_size = required("hidden_size", kHidden);
  model.intermediate_size = required("intermediate_size", kIntermediate);
  model.vocab_size = required("vocab_size", kVocab);
  model.max_positions = optional("max_position_embeddings", kPositions, 2048);

  kvcache::AttentionShape& shape = model.attention;
  shape.num_layers = required("num_hidden_layers", kLayers);
  shape.num_query_heads = required("num_attention_heads", kHeads);
  shape.num_kv_heads =
      optional("num_key_value_heads", {1, shape.num_query_heads}, shape.num_query_heads);
  if (config.ok() && shape.num_query_heads % shape.num_kv_heads != 0) {
    config.FailExpected("num_key_value_heads", "a divisor of num_attention_heads, ",
                        shape.num_query_heads);
  }
  if (config.Has("head_dim")) {
    shape.head_dim = required("head_dim", kHeadDim);
  } else if (config.ok() && model.hidden_size % shape.num_query_heads != 0) {
    config.FailExpected("hidden_size", "a multiple of num_attention_heads, ", shape.num_query_heads,
                        ", where head_dim is missing");
  } else if (config.ok()) {
    shape.head_dim = model.hidden_size / shape.num_query_heads;
  }
  if (shape.head_dim % 2 != 0 || shape.head_dim > kHeadDim.max) {
    config.Fail("head_dim", "expected an even number from ", kHeadDim.min, " to ", kHeadDim.max,
                ", got ", shape.head_dim);
  }
  if (int64_t{model.max_positions} * shape.head_dim > kMaxAngles) {
    config.Fail("max_position_embeddings", model.max_positions, " times head_dim, ", shape.head_dim,
                ", is above the limit of ", kMaxAngles);
  }
}

// A number or a list of numbers.
void AddEosIds(JsonReader& config, ModelConfig& model) {
  constexpr char kKey[] = "eos_token_id";
  if (!config.Has(kKey)) return;
  std::vector<JsonReader> ids = {config.Member(kKey)};
  if (ids[0].value().is_array()) ids = config.Elements(kKey);
  for (JsonReader& id : ids) {
    const auto token = static_cast<int32_t>(id.Integer("", 0, model.vocab_size - 1));
    const auto place = std::lower_bound(model.eos_ids.begin(), model.eos_ids.end(), token);
    if (place == model.eos_ids.end() || *place != token) model.eos_ids.insert(place, token);
  }
}

// Reads them as vLLM does: do_sample and the library's own defaults have no effect.
SamplingDefaults ReadSamplingDefaults(JsonReader& reader) {
  constexpr int64_t kMaxInt = std::numeric_limits<int32_t>::max();
  const auto integer = [&](const char* key, int64_t min) -> std::optional<int32_t> {
    if (!reader.Has(key)) return std::nullopt;
    return static_cast<int32_t>(reader.Integer(key, min, kMaxInt));
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

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& name, const Json& json) {
  absl::Status status;
  JsonReader config(json, name, &status);
  const Architecture* architecture = ReadArchitecture(config);
  if (!status.ok()) return status;

  ModelConfig model;
  model.architecture = architecture->name;
  ReadSizes(config, model);
  model.rms_norm_eps =
      static_cast<float>(config.Positive("rms_norm_eps", /*max=*/1, /*fallback=*/1e-6));
  RefuseOtherNames(config, "rms_norm_eps",
                   {"norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon"});
  model.tied_embeddings = config.Bool("tie_word_embeddings", false);
  model.rope = ReadRope(config);
  model.dtype = ReadDType(config);
  AddEosIds(config, model);
  CheckMathematics(config, model.max_positions, architecture->default_window);
  if (status.ok()) model.plan = ReadCrossLayer(config, model.attention);
  RETURN_IF_ERROR(status);
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
  absl::Status status;
  JsonReader reader(*generation, generation_path.string(), &status);
  AddEosIds(reader, *model);
  model->defaults = ReadSamplingDefaults(reader);
  RETURN_IF_ERROR(status);
  return model;
}

}  // namespace strata::engine
