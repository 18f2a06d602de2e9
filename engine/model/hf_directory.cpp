#include "engine/model/hf_directory.h"

#include <cstddef>

#include "engine/base/json_file.h"
#include "engine/model/hf_tokenizer.h"
#include "engine/model/model_name.h"
#include "engine/model/random_shape.h"
#include "engine/model/safetensors.h"
#include "kvcache/base/errors.h"
#include "kvcache/base/json_reader.h"

namespace strata::engine {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

// A list of templates by name, as some models have in place of one, gives "default".
std::string TemplateIn(JsonReader config) {
  constexpr char kKey[] = "chat_template";
  if (!config.Value(kKey).is_array()) return config.String(kKey, "");
  for (JsonReader& entry : config.Objects(kKey)) {
    if (entry.String("name") == "default") return entry.String("template");
  }
  return "";
}

}  // namespace

std::string HfDirectory::name() const { return ModelNameOf(dir_); }

absl::StatusOr<JsonDocument> HfDirectory::Config() const {
  const std::filesystem::path path = dir_ / "config.json";
  ASSIGN_OR_RETURN(nlohmann::json json, ReadJsonFile(path, kMaxConfigBytes));
  return JsonDocument{path.string(), std::move(json)};
}

absl::StatusOr<JsonDocument> HfDirectory::GenerationConfig() const {
  const std::filesystem::path path = dir_ / "generation_config.json";
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(json.status())) return JsonDocument{path.string(), nullptr};
  RETURN_IF_ERROR(json.status());
  return JsonDocument{path.string(), *std::move(json)};
}

absl::StatusOr<TokenizerDescription> HfDirectory::Tokenizer() const {
  return ReadHfTokenizer(dir_);
}

absl::StatusOr<std::string> HfDirectory::ChatTemplate() const {
  absl::StatusOr<std::string> file = ReadFile(dir_ / "chat_template.jinja", kMaxTemplateBytes);
  if (!absl::IsNotFound(file.status())) return file;
  ASSIGN_OR_RETURN(const JsonDocument config, ReadHfTokenizerConfig(dir_));
  if (config.json.is_null()) return "";
  absl::Status status;
  std::string found = TemplateIn(JsonReader(config.json, config.name, &status));
  RETURN_IF_ERROR(status);
  return found;
}

absl::StatusOr<std::unique_ptr<TensorSource>> HfDirectory::OpenTensors() const {
  ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> tensors, Checkpoint::Open(dir_));
  return tensors;
}

absl::StatusOr<std::shared_ptr<const ModelSource>> OpenModel(const std::filesystem::path& dir,
                                                             const std::string& shape) {
  if (shape.empty()) return std::make_shared<HfDirectory>(dir);
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelSource> random, RandomShape::Named(shape));
  return random;
}

}  // namespace strata::engine
