#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/types.h"
#include "kernels/tensor.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// RoPE frequencies: theta_j = rope_theta^(-2j/d), then scaled.
struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_max_positions = 8192;
};

// config.json of a Llama-family decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU.
struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  kvcache::AttentionShape attention;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // prompt and output together
  float rms_norm_eps = 1e-6F;
  bool tied_embeddings = false;
  RopeConfig rope;
  kernels::DType dtype = kernels::DType::kF32;  // of the checkpoint (torch_dtype or dtype)
  std::vector<int32_t> eos_ids;                 // eos_token_id, a number or a list; may be empty
  SamplingDefaults defaults;                    // of generation_config.json
  // What the key "cross_layer" says, or one of the published keys num_kv_shared_layers, use_cla
  // with cla_share_factor, and kv_reuse_group; nullopt if config.json has none.
  std::optional<kvcache::SharingPlan> plan;
};

// Reads DIR/config.json, and eos_token_id and the sampling defaults of DIR/generation_config.json
// if there is one. NOT_FOUND if the directory or file is missing; INVALID_ARGUMENT, one line naming
// file, key, value and limit; UNIMPLEMENTED naming an architecture, or a key that changes the
// mathematics and is not built (sliding_window in use, attention_bias, use_qk_norm, another
// hidden_act ...).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& dir);
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view json_text);

// The angles' cosines and sines of positions [begin, end), in float64 rounded once: [end - begin,
// head_dim], each row cos[d/2] then sin[d/2], as Backend::PrepareAttention takes them.
std::vector<float> RopeTable(const RopeConfig& rope, int32_t head_dim, int32_t begin, int32_t end);

}  // namespace strata::engine
