#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/model/tensor_source.h"

namespace strata::engine {

// Random weights for a model's shape, for benchmarks: every projection in full, drawn with
// deviation 0.02, norms and learnable mixes of 1, in bf16. Tensors overlap in memory, which holds
// little more than the largest of them.
class RandomTensors final : public TensorSource {
 public:
  explicit RandomTensors(const ModelConfig& config);

  bool Has(std::string_view name) const override;
  absl::StatusOr<TensorView> Find(std::string_view name) const override;
  std::vector<std::string> Names() const override;
  void Release(const TensorView&) const override {}  // the next tensor uses the same memory

 private:
  void Add(std::string name, std::vector<int64_t> shape);

  std::map<std::string, std::vector<int64_t>, std::less<>> shapes_;
  std::vector<uint16_t> drawn_;  // bf16
  std::vector<uint16_t> ones_;
};

// A model of a published shape by name ("smollm-135m", "llama-3.1-8b", ...), without weights. Its
// vocabulary has no end-of-sequence id. INVALID_ARGUMENT listing the names.
absl::StatusOr<ModelConfig> NamedShape(std::string_view name);

}  // namespace strata::engine
