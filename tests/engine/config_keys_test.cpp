// Keys of config.json that change the mathematics and that nothing reads, and published configs
// that use none of them.

#include <string>
#include <string_view>
#include <vector>

#include "engine/model/architectures.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/llama_config.h"

namespace strata::engine::config_keys_test {
namespace {

using ::strata::testing::LlamaConfig;
using ::testing::HasSubstr;
using Json = nlohmann::json;

absl::Status Parse(const Json& changes) {
  Json config = LlamaConfig();
  config.update(changes);
  return ParseModelSpec(config.dump()).status();
}

std::string Refusal(const Json& changes) { return std::string(Parse(changes).message()); }

TEST(ConfigKeysTest, EveryKeyIsRefusedInUseAndPassesAtRest) {
  struct Case {
    const char* key;
    Json in_use;
    Json at_rest;
  };
  const std::vector<Case> cases = {
      {"mlp_hidden_act", "relu2", "silu"},
      {"activation_sparsity_pattern", {0.95, 0.0}, Json::array()},
      {"swiglu_limit", 7.0, nullptr},
      {"sandwich_norm", true, false},
      {"pre_norm", false, true},
      {"do_layer_norm_before", false, true},
      {"apply_residual_connection_post_layernorm", true, false},
      {"apply_layernorm_1p", true, false},
      {"layernorm_zero_centered_gamma", true, false},
      {"rope_pct", 0.25, 1.0},
      {"rotary_percent", 0.25, 1.0},
      {"rope_ratio", 50, 1},
      {"rope_condense_ratio", 8, 1},
      {"use_dynamic_ntk", true, false},
      {"rope_local_theta", 10000.0, nullptr},
      {"layer_rope_theta", {1e4, 1e6}, nullptr},
      {"_sliding_window_pattern", 6, nullptr},
      {"global_attn_every_n_layers", 4, nullptr},
      {"prefix_lm", true, false},
      {"attention_scale", 0.1, nullptr},
      {"attn_scale", 0.1, nullptr},
      {"softmax_scale", 0.1, nullptr},
      {"scale_attn_weights", false, true},
      {"attn_temperature_tuning", true, false},
      {"use_logn_attn", true, false},
      {"attn_logit_softcap", 50.0, nullptr},
      {"attention_logit_cap", 50.0, nullptr},
      {"final_logit_softcap", 30.0, nullptr},
      {"logits_soft_cap", 30.0, nullptr},
      {"attention_value_scale", 0.7, 1.0},
      {"lm_head_multiplier", 0.04, 1},
      {"key_multiplier", 0.5, 1.0},
      {"attention_in_multiplier", 0.5, 1.0},
      {"attention_out_multiplier", 0.5, 1.0},
      {"mlp_multipliers", {0.9, 0.2}, {1.0, 1.0}},
      {"residual_scale", 0.2, 1.0},
      {"scale_embedding", true, false},
      {"total_ut_steps", 4, 1},
      {"num_loops", 2, 1},
      {"per_layer_config", {{"head_dim", 32}}, Json::object()},
      {"attention_k_eq_v", true, false},
      {"kv_source_layers", {0, 0, 2}, Json::array()},
      {"num_kv_reuse_layers", 2, 0},
  };
  for (const Case& test : cases) {
    const absl::Status refused = Parse({{test.key, test.in_use}});
    EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented) << test.key;
    EXPECT_EQ(refused.message().find(std::string("config.json: ") + test.key + ": " +
                                     test.in_use.dump() + " is not built"),
              0U)
        << refused;
    EXPECT_TRUE(Parse({{test.key, test.at_rest}}).ok()) << test.key;
    EXPECT_TRUE(Parse({{test.key, nullptr}}).ok()) << test.key;
  }
}

// A number under another name must not be replaced by a default.
TEST(ConfigKeysTest, NumbersUnderAnotherNameAreNotPassedOver) {
  for (const char* name : {"norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon"}) {
    EXPECT_EQ(Refusal({{name, 1e-5}}),
              std::string("config.json: ") + name + ": 1e-05 but rms_norm_eps is missing");
    EXPECT_TRUE(Parse({{name, 1e-5}, {"rms_norm_eps", 1e-6}}).ok()) << name;
  }
  for (const char* name : {"rope_base", "rotary_base", "rotary_emb_base"}) {
    EXPECT_EQ(Refusal({{name, 5e5}}),
              std::string("config.json: ") + name + ": 500000.0 but rope_theta is missing");
    EXPECT_THAT(Refusal({{name, 5e5}, {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}}),
                HasSubstr("rope_theta is missing"));
    EXPECT_TRUE(Parse({{name, 5e5}, {"rope_theta", 5e5}}).ok()) << name;
    EXPECT_TRUE(Parse({{name, 5e5}, {"rope_parameters", {{"rope_theta", 5e5}}}}).ok()) << name;
  }
}

// transformers prefers the number outside the scaling.
TEST(ConfigKeysTest, TwoOriginalLengthsMustAgree) {
  const Json scaling = {{"rope_type", "llama3"},
                        {"factor", 8.0},
                        {"low_freq_factor", 1.0},
                        {"high_freq_factor", 4.0},
                        {"original_max_position_embeddings", 1024}};
  const char* key = "original_max_position_embeddings";
  for (const char* where : {"rope_scaling", "rope_parameters"}) {
    EXPECT_EQ(Refusal({{where, scaling}, {key, 512}}),
              "config.json: original_max_position_embeddings: 512 but 1024 beside the other "
              "numbers of the scaling");
    EXPECT_TRUE(Parse({{where, scaling}, {key, 1024}}).ok());
    EXPECT_TRUE(Parse({{where, scaling}, {key, nullptr}}).ok());
    EXPECT_TRUE(Parse({{where, {{"rope_type", "linear"}, {"factor", 2}}}, {key, 512}}).ok());
  }
  EXPECT_TRUE(Parse({{key, 512}}).ok());
}

TEST(ConfigKeysTest, PublishedConfigsAreTaken) {
  const char* configs[] = {
      // Llama 3.2 1B
      R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
          "bos_token_id":128000,"eos_token_id":[128001,128008,128009],"head_dim":64,
          "hidden_act":"silu","hidden_size":2048,"initializer_range":0.02,"intermediate_size":8192,
          "max_position_embeddings":131072,"mlp_bias":false,"model_type":"llama",
          "num_attention_heads":32,"num_hidden_layers":16,"num_key_value_heads":8,
          "pretraining_tp":1,"rms_norm_eps":1e-05,"rope_scaling":{"factor":32.0,
          "high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,
          "rope_type":"llama3"},"rope_theta":500000.0,"tie_word_embeddings":true,
          "torch_dtype":"bfloat16","transformers_version":"4.45.0.dev0","use_cache":true,
          "vocab_size":128256})",
      // SmolLM2
      R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,
          "bos_token_id":0,"eos_token_id":0,"hidden_act":"silu","hidden_size":576,
          "initializer_range":0.041666666666666664,"intermediate_size":1536,
          "is_llama_config":true,"max_position_embeddings":8192,"model_type":"llama",
          "num_attention_heads":9,"num_hidden_layers":30,"num_key_value_heads":3,
          "pretraining_tp":1,"rms_norm_eps":1e-05,"rope_interleaved":false,"rope_scaling":null,
          "rope_theta":100000,"tie_word_embeddings":true,"torch_dtype":"bfloat16",
          "transformers_version":"4.40.1","use_cache":true,"vocab_size":49152})",
      // Vicuna and other early ones
      R"({"_name_or_path":"vicuna-7b-v1.5","architectures":["LlamaForCausalLM"],"bos_token_id":1,
          "eos_token_id":2,"hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,
          "intermediate_size":11008,"max_position_embeddings":4096,"max_sequence_length":4096,
          "model_type":"llama","num_attention_heads":32,"num_hidden_layers":32,
          "num_key_value_heads":32,"pad_token_id":0,"pretraining_tp":1,"rms_norm_eps":1e-05,
          "rope_scaling":null,"tie_word_embeddings":false,"torch_dtype":"float16",
          "transformers_version":"4.31.0","use_cache":true,"vocab_size":32000})",
      // Mistral 7B v0.3
      R"({"architectures":["MistralForCausalLM"],"attention_dropout":0.0,"bos_token_id":1,
          "eos_token_id":2,"hidden_act":"silu","hidden_size":4096,"initializer_range":0.02,
          "intermediate_size":14336,"max_position_embeddings":32768,"model_type":"mistral",
          "num_attention_heads":32,"num_hidden_layers":32,"num_key_value_heads":8,
          "rms_norm_eps":1e-05,"rope_theta":1000000.0,"sliding_window":null,
          "tie_word_embeddings":false,"torch_dtype":"bfloat16","transformers_version":"4.42.0",
          "use_cache":true,"vocab_size":32768})"};
  for (const char* config : configs) {
    EXPECT_TRUE(ParseModelSpec(config).ok()) << ParseModelSpec(config).status();
  }
}

}  // namespace
}  // namespace strata::engine::config_keys_test
