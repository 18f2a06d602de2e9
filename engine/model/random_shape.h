#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "engine/base/model_source.h"

namespace strata::engine {

// A model of a published shape ("smollm-135m", "llama-3.1-8b", ...), for benchmarks. Its vocabulary
// has no end-of-sequence id. Every projection is there in full, drawn with deviation 0.02, norms
// and learnable mixes are 1, all in bf16. Tensors overlap in memory, which holds little more than
// the largest of them.
class RandomShape final : public ModelSource {
 public:
  // INVALID_ARGUMENT listing the names.
  static absl::StatusOr<std::unique_ptr<RandomShape>> Named(std::string_view name);

  std::string name() const override { return name_; }
  std::string place() const override { return config_.name; }
  absl::StatusOr<JsonDocument> Config() const override { return config_; }
  absl::StatusOr<JsonDocument> GenerationConfig() const override { return JsonDocument(); }
  absl::StatusOr<TokenizerDescription> Tokenizer() const override;
  absl::StatusOr<std::string> ChatTemplate() const override { return ""; }
  absl::StatusOr<std::unique_ptr<TensorSource>> OpenTensors() const override;

 private:
  RandomShape(std::string name, JsonDocument config)
      : name_(std::move(name)), config_(std::move(config)) {}

  const std::string name_;
  const JsonDocument config_;
};

}  // namespace strata::engine
