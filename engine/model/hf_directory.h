#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "engine/base/model_source.h"

namespace strata::engine {

// A folder as Hugging Face's libraries write it: config.json, generation_config.json, safetensors,
// tokenizer.json or vocab.json with merges.txt, tokenizer_config.json, chat_template.jinja.
class HfDirectory final : public ModelSource {
 public:
  explicit HfDirectory(std::filesystem::path dir) : dir_(std::move(dir)) {}

  std::string name() const override;
  std::string place() const override { return dir_.string(); }
  absl::StatusOr<JsonDocument> Config() const override;
  absl::StatusOr<JsonDocument> GenerationConfig() const override;
  absl::StatusOr<TokenizerDescription> Tokenizer() const override;
  absl::StatusOr<std::string> ChatTemplate() const override;
  absl::StatusOr<std::unique_ptr<TensorSource>> OpenTensors() const override;

 private:
  const std::filesystem::path dir_;
};

}  // namespace strata::engine
