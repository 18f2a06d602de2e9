#include "engine/model/config_rules.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace strata::engine {
namespace {

using Json = nlohmann::json;

// A key that changes the mathematics, unless it has one of the listed values.
struct Rule {
  std::string_view key;
  std::vector<Json> harmless;  // beside a missing key and null
};

// Only keys that are known to occur in a Llama-like config.json, with the values by which they
// announce no difference.
const std::vector<Rule>& Rules() {
  static const std::vector<Rule> rules = {
      // The gated unit is SiLU.
      {"hidden_act", {"silu", "swish"}},
      {"hidden_activation", {"silu", "swish"}},
      {"activation_function", {"silu", "swish"}},
      {"mlp_hidden_act", {"silu", "swish"}},
      {"activation_sparsity_pattern", {Json::array()}},
      {"swiglu_limit", {}},
      {"swiglu_alpha", {}},
      {"mlp_gate_softcap", {}},
      {"mlp_up_softcap", {}},
      // No projection has a bias.
      {"attention_bias", {false}},
      {"attention_in_bias", {false}},
      {"attention_out_bias", {false}},
      {"qkv_bias", {false}},
      {"add_qkv_bias", {false}},
      {"use_qkv_bias", {false}},
      {"mlp_bias", {false}},
      {"bias", {false}},
      {"use_bias", {false}},
      {"add_bias_linear", {false}},
      {"lm_head_bias", {false}},
      // Two norms a layer, RMS, before attention and before the MLP; none on queries and keys.
      {"use_qk_norm", {false}},
      {"qk_norm", {false}},
      {"use_qk_layernorm", {false}},
      {"qk_layernorm", {false}},
      {"norm_type", {"rmsnorm", "rms_norm", "RMSNorm"}},
      {"layer_norm_type", {"rmsnorm", "rms_norm", "RMSNorm"}},
      {"rms_norm_add_unit_offset", {false}},
      {"use_post_norm", {false}},
      {"post_norm", {false}},
      {"use_sandwich_norm", {false}},
      {"sandwich_norm", {false}},
      {"pre_norm", {true}},
      {"do_layer_norm_before", {true}},
      {"apply_residual_connection_post_layernorm", {false}},
      {"apply_layernorm_1p", {false}},
      {"layernorm_zero_centered_gamma", {false}},
      {"parallel_residual", {false}},
      {"use_parallel_residual", {false}},
      {"parallel_attn", {false}},
      // Every element of a head turns, halves against each other, in every layer.
      {"partial_rotary_factor", {1}},
      {"rotary_pct", {1}},
      {"rope_pct", {1}},
      {"rotary_percent", {1}},
      {"rope_percent", {1}},
      {"rope_ratio", {1}},
      {"rope_condense_ratio", {1}},
      {"use_dynamic_ntk", {false}},
      {"rope_interleaved", {false}},
      {"rope_interleave", {false}},
      {"no_rope_layers", {Json::array()}},
      {"no_rope_layer_interval", {0}},
      {"rope_local_base_freq", {}},
      {"rope_local_theta", {}},
      {"swa_rope_theta", {}},
      {"layer_rope_theta", {}},
      {"position_embedding_type", {"rope", "rotary"}},
      {"rotary_dim", {}},
      {"use_rope", {true}},
      {"alibi", {false}},
      {"use_alibi", {false}},
      // Every token sees itself and all tokens before it, and no others.
      {"interleaved_sliding_window", {}},
      {"attention_chunk_size", {}},
      {"attention_window_size", {}},
      {"sliding_window_pattern", {}},
      {"_sliding_window_pattern", {}},
      {"sliding_window_size", {}},
      {"global_attn_every_n_layers", {}},
      {"prefix_lm", {false}},
      {"use_bidirectional_attention", {false}},
      {"is_causal", {true}},
      {"use_causal_mask", {true}},
      {"is_encoder_decoder", {false}},
      {"add_cross_attention", {false}},
      {"num_meta_tokens", {0}},
      {"num_memory_tokens", {0}},
      {"use_attention_sinks", {false}},
      // Scores are divided by sqrt(head_dim); no other multiplier, cap or clip anywhere.
      {"attention_multiplier", {}},
      {"query_pre_attn_scalar", {}},
      {"attention_scale", {}},
      {"attn_scale", {}},
      {"softmax_scale", {}},
      {"scale_attn_weights", {true}},
      {"attn_temperature_tuning", {false, 0}},
      {"use_logn_attn", {false}},
      {"attn_logit_softcapping", {}},
      {"attn_logit_softcap", {}},
      {"attention_logit_cap", {}},
      {"final_logit_softcapping", {}},
      {"final_logit_softcap", {}},
      {"logit_softcap", {}},
      {"logits_soft_cap", {}},
      {"clip_qkv", {}},
      {"attention_value_scale", {1}},
      {"use_mup", {false}},
      {"mup_enabled", {false}},
      {"embedding_multiplier", {1}},
      {"residual_multiplier", {1}},
      {"lm_head_multiplier", {1}},
      {"key_multiplier", {1}},
      {"attention_in_multiplier", {1}},
      {"attention_out_multiplier", {1}},
      {"mlp_multipliers", {Json::array({1, 1})}},
      {"residual_scale", {1}},
      {"logits_scaling", {1}},
      {"logit_scale", {1}},
      {"scale_emb", {1}},
      {"embedding_scale", {1}},
      {"scale_embedding", {false}},
      {"scale_depth", {}},
      {"dim_model_base", {}},
      {"scale_attn_by_inverse_layer_idx", {false}},
      // More than one slice sums the same products in another order.
      {"pretraining_tp", {0, 1}},
      // One dense MLP a layer, attention in every layer, each layer once.
      {"num_experts", {0}},
      {"num_local_experts", {0}},
      {"n_routed_experts", {0}},
      {"moe_intermediate_size", {}},
      {"total_ut_steps", {1}},
      {"num_loops", {1}},
      {"loop_num_passes", {1}},
      {"n_recurrent_loops", {1}},
      {"block_types", {}},
      {"layers_block_type", {}},
      {"kv_lora_rank", {}},
      {"q_lora_rank", {}},
      {"hidden_size_per_layer_input", {0}},
      {"per_layer_config", {Json::object()}},
      // Only cross_layer, or an equivalent published key, shares keys and values.
      {"attention_k_eq_v", {false}},
      {"kv_source_layers", {Json::array()}},
      {"kv_source_layer_ids", {Json::array()}},
      {"num_kv_reuse_layers", {0}},
      // Weights are numbers as stored, of a single text model.
      {"quantization_config", {}},
      {"compression_config", {}},
      {"text_config", {}},
      {"vision_config", {}},
      {"audio_config", {}},
  };
  return rules;
}

// Accepts no window, or a window that no sequence outgrows.
void CheckSlidingWindow(JsonReader& config, int64_t max_positions, int64_t default_window) {
  constexpr std::string_view kKey = "sliding_window";
  // If the architecture itself has a window, use_sliding_window does not turn it off.
  if (default_window == 0 && !config.Bool("use_sliding_window", true)) return;
  if (!config.Has(kKey) && (default_window == 0 || config.IsWritten(kKey))) return;
  const int64_t window = config.OptionalInteger(kKey, 0, INT64_MAX).value_or(default_window);
  if (window >= max_positions) return;
  config.FailNotBuilt(kKey, config.Has(kKey) ? "" : Concat(" (", window, " is the default)"),
                      ", unless it is null or at least max_position_embeddings, ", max_positions);
}

// Fails unless every entry of the list, one for each layer, is `kind`.
void CheckAllAre(JsonReader& config, std::string_view key, const Json& kind) {
  if (!config.Has(key)) return;
  const Json& list = config.Value(key);
  const bool all = list.is_array() && std::all_of(list.begin(), list.end(),
                                                  [&](const Json& item) { return item == kind; });
  if (!all) config.FailNotBuilt(key, ", only layers that are all ", kind);
}

}  // namespace

void RefuseOtherNames(JsonReader& config, std::string_view key,
                      std::initializer_list<std::string_view> others) {
  if (config.Has(key)) return;
  for (const std::string_view other : others) {
    if (config.Has(other))
      config.Fail(other, DescribeJson(config.Value(other)), " but ", key, " is missing");
  }
}

void CheckMathematics(JsonReader& config, int64_t max_positions, int64_t default_window) {
  for (const Rule& rule : Rules()) {
    const auto& harmless = rule.harmless;
    if (config.Has(rule.key) &&
        std::find(harmless.begin(), harmless.end(), config.Value(rule.key)) == harmless.end()) {
      config.FailNotBuilt(rule.key);
    }
  }
  CheckSlidingWindow(config, max_positions, default_window);
  CheckAllAre(config, "layer_types", "full_attention");
  CheckAllAre(config, "mlp_layer_types", "dense");
}

}  // namespace strata::engine
