#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/tensor.h"
#include "kvcache/plan/sharing_plan.h"
#include "nlohmann/json.hpp"

namespace strata::testing {

struct TinyModelOptions {
  kvcache::AttentionShape attention{
      .num_layers = 4, .num_query_heads = 4, .num_kv_heads = 4, .head_dim = 8};
  int32_t hidden_size = 32;
  int32_t intermediate_size = 48;
  int32_t vocab_size = 96;
  int32_t max_positions = 512;
  bool tied = true;  // only the embedding is stored
  kernels::ElementType dtype = kernels::ElementType::kF32;
  uint64_t seed = 1;
  nlohmann::json cross_layer = nullptr;  // as in config.json; null: the key is left out
  // True: projections hold the rows of living heads only, and projections without any are left out.
  // False: every layer has all three in full.
  bool trim = true;
};

// A float tensor by name; row-major.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> data;
};

// A checkpoint of random weights.
struct TinyModel {
  TinyModelOptions options;
  std::string config_json;
  std::vector<NamedTensor> tensors;  // values as rounded to options.dtype; sorted by name

  // REQUIRES: the tensor is there.
  const NamedTensor& Tensor(std::string_view name) const;
  // The file, in options.dtype.
  std::string Safetensors() const;
};

// Weights are scaled so that activations stay O(1), attention is far from uniform and logits are
// neither flat nor one-sided. A weight depends only on seed, tensor name and place in the full-size
// tensor: models that differ in plan or trim have the same weights wherever both have them.
// REQUIRES: cross_layer is a valid plan.
TinyModel MakeTinyModel(const TinyModelOptions& options);

// Writes config.json and model.safetensors to a new folder in `parent` and gives its path.
std::filesystem::path WriteModelDir(const TinyModel& model, const std::filesystem::path& parent);

// The bytes of a safetensors file with any header and data, right or wrong.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

// Replaces or makes a file.
void WriteFile(const std::filesystem::path& path, std::string_view content);

}  // namespace strata::testing
