#include "engine/model/architectures.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/plan/plan_presets.h"
#include "tests/engine/llama_config.h"

namespace strata::engine::architectures_test {
namespace {

using ::strata::testing::LlamaConfig;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;
using Json = nlohmann::json;

// LlamaConfig() with `changes` merged into it; a null removes the key.
Json With(const Json& changes) {
  Json config = LlamaConfig();
  config.merge_patch(changes);
  return config;
}

ModelSpec Parsed(const Json& config) {
  auto model = ParseModelSpec(config.dump());
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : ModelSpec{};
}

// The message after "config.json: ", "" if the config is accepted.
std::string Refusal(const Json& config, absl::StatusCode code) {
  const auto model = ParseModelSpec(config.dump());
  if (model.ok()) return "";
  EXPECT_EQ(model.status().code(), code) << model.status();
  const std::string message(model.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_EQ(message.substr(0, 13), "config.json: ");
  return message.substr(13);
}

std::string Invalid(const Json& changes) {
  return Refusal(With(changes), absl::StatusCode::kInvalidArgument);
}

std::string NotBuilt(const Json& changes) {
  return Refusal(With(changes), absl::StatusCode::kUnimplemented);
}

TEST(ArchitecturesTest, FillsInLlamasDefaults) {
  const ModelSpec model = Parsed(LlamaConfig());
  EXPECT_EQ(model.architecture, "LlamaForCausalLM");
  EXPECT_EQ(model.shape(),
            (kvcache::AttentionShape{
                .num_layers = 6, .num_query_heads = 8, .num_kv_heads = 8, .head_dim = 8}));
  EXPECT_EQ(model.hidden_size, 64);
  EXPECT_EQ(model.feed_forward().width, 96);
  EXPECT_EQ(model.vocab_size, 100);
  EXPECT_EQ(model.max_positions, 2048);
  EXPECT_EQ(model.norm_epsilon, 1e-6F);
  EXPECT_FALSE(model.tied_embeddings);
  EXPECT_EQ(model.attention().rope->theta, 10000.0);
  EXPECT_EQ(model.attention().rope->scaling, RopeSpec::Scaling::kNone);
  EXPECT_EQ(model.dtype, kernels::ElementType::kF32);
  EXPECT_THAT(model.eos_ids, IsEmpty());
  EXPECT_FALSE(model.plan);
}

TEST(ArchitecturesTest, ReadsWhatIsWritten) {
  const ModelSpec model = Parsed(With({{"num_key_value_heads", 2},
                                       {"head_dim", 16},
                                       {"max_position_embeddings", 4096},
                                       {"rms_norm_eps", 1e-5},
                                       {"rope_theta", 500000},
                                       {"tie_word_embeddings", true},
                                       {"torch_dtype", "bfloat16"},
                                       {"eos_token_id", {7, 3, 7}},
                                       {"cross_layer", {{"preset", "svformer"}}}}));
  EXPECT_EQ(model.attention().num_kv_heads, 2);
  EXPECT_EQ(model.attention().head_dim, 16);
  EXPECT_EQ(model.max_positions, 4096);
  EXPECT_EQ(model.norm_epsilon, 1e-5F);
  EXPECT_EQ(model.attention().rope->theta, 500000.0);
  EXPECT_TRUE(model.tied_embeddings);
  EXPECT_EQ(model.dtype, kernels::ElementType::kBF16);
  EXPECT_THAT(model.eos_ids, ElementsAre(3, 7));
  EXPECT_EQ(model.plan, *kvcache::NamedPlan("svformer", model.shape()));
}

TEST(ArchitecturesTest, IgnoresKeysThatLeaveTheMathematicsAlone) {
  Parsed(With({{"transformers_version", "4.41.2"},
               {"use_cache", true},
               {"bos_token_id", 1},
               {"initializer_range", 0.02},
               {"attention_dropout", 0.1},
               {"my_notes", {}},
               {"my_flag", false},
               {"my_number", 0}}));
  Parsed(With({{"hidden_act", "swish"},
               {"attention_bias", false},
               {"mlp_bias", false},
               {"pretraining_tp", 1},
               {"partial_rotary_factor", 1.0},
               {"logits_scaling", 1},
               {"num_local_experts", 0},
               {"norm_type", "rmsnorm"},
               {"use_qk_norm", false},
               {"no_rope_layers", Json::array()},
               {"rope_scaling", nullptr}}));
  Parsed(With({{"layer_types", std::vector<std::string>(6, "full_attention")}}));
}

TEST(ArchitecturesTest, RefusesOtherArchitecturesByName) {
  for (const char* name : {"HunYuanDenseV1ForCausalLM", "Gemma3nForConditionalGeneration",
                           "HymbaForCausalLM", "Qwen2ForCausalLM", "LlamaModel"}) {
    EXPECT_EQ(NotBuilt({{"architectures", {name}}}),
              "architectures: [\"" + std::string(name) +
                  "\"] is not built with model_type \"llama\"; built are LlamaForCausalLM, "
                  "MistralForCausalLM");
  }
  EXPECT_THAT(NotBuilt({{"architectures", nullptr}, {"model_type", "hunyuan"}}),
              HasSubstr("model_type: \"hunyuan\" is not built; built are"));
  EXPECT_THAT(NotBuilt({{"model_type", "hymba"}}),
              HasSubstr("is not built with model_type \"hymba\""));
  EXPECT_THAT(NotBuilt({{"architectures", {"LlamaForCausalLM", "Other"}}}), HasSubstr("Other"));
  EXPECT_THAT(NotBuilt({{"architectures", 3}}), HasSubstr("architectures: 3 is not built"));
  EXPECT_EQ(Invalid({{"architectures", nullptr}, {"model_type", nullptr}}),
            "neither architectures nor model_type is there");
  EXPECT_EQ(Invalid({{"model_type", 3}}), "model_type: expected a string, got 3");

  EXPECT_EQ(Parsed(With({{"architectures", nullptr}})).architecture, "LlamaForCausalLM");
  EXPECT_EQ(Parsed(With({{"model_type", nullptr}})).architecture, "LlamaForCausalLM");
}

TEST(ArchitecturesTest, MistralIsLlamaWhereNoWindowSlides) {
  const Json mistral = {{"architectures", {"MistralForCausalLM"}}, {"model_type", "mistral"}};
  Json config = With(mistral);
  config["max_position_embeddings"] = 4097;
  config["sliding_window"] = nullptr;
  EXPECT_EQ(Parsed(config).architecture, "MistralForCausalLM");
  config["sliding_window"] = 4097;
  Parsed(config);
  config["sliding_window"] = 4096;
  config["use_sliding_window"] = false;  // Mistral's own code does not read it
  EXPECT_EQ(Refusal(config, absl::StatusCode::kUnimplemented),
            "layer 0: a window of 4096 tokens is not built");
  config.erase("sliding_window");
  EXPECT_EQ(Refusal(config, absl::StatusCode::kUnimplemented),
            "layer 0: a window of 4096 tokens is not built");
}

TEST(ArchitecturesTest, RefusesSlidingWindowsInUse) {
  EXPECT_THAT(NotBuilt({{"sliding_window", 2047}}),
              HasSubstr("a window of 2047 tokens is not built"));
  EXPECT_EQ(NotBuilt({{"sliding_window", 2048}}), "");
  EXPECT_EQ(NotBuilt({{"sliding_window", 16}, {"use_sliding_window", false}}), "");
  EXPECT_THAT(NotBuilt({{"sliding_window", 16}, {"use_sliding_window", true}}),
              HasSubstr("a window of 16 tokens is not built"));
  EXPECT_THAT(Invalid({{"sliding_window", "wide"}}), HasSubstr("expected a whole number"));
}

TEST(ArchitecturesTest, RefusesKeysThatChangeTheMathematics) {
  EXPECT_EQ(NotBuilt({{"hidden_act", "gelu"}}),
            "layer 0: an activation other than SiLU is not built");
  EXPECT_EQ(NotBuilt({{"hidden_act", "xielu"}}), "hidden_act: \"xielu\" is not built");
  EXPECT_EQ(NotBuilt({{"attention_bias", true}}),
            "layer 0: a bias of queries, keys and values is not built");
  EXPECT_EQ(NotBuilt({{"mlp_bias", true}}),
            "layer 0: a bias of the feed-forward block is not built");
  EXPECT_EQ(NotBuilt({{"partial_rotary_factor", 0.5}}),
            "layer 0: rotation of a part of a head is not built");
  const Json changes = {{"use_qk_norm", true},
                        {"qk_norm", true},
                        {"pretraining_tp", 2},
                        {"logit_scale", 0.0625},
                        {"logits_scaling", 8},
                        {"embedding_multiplier", 12.0},
                        {"residual_multiplier", 0.22},
                        {"attention_multiplier", 1.0},
                        {"attn_logit_softcapping", 50.0},
                        {"final_logit_softcapping", 30.0},
                        {"query_pre_attn_scalar", 256},
                        {"num_experts", 8},
                        {"num_local_experts", 8},
                        {"quantization_config", {{"bits", 4}}},
                        {"no_rope_layers", {1, 0}},
                        {"norm_type", "layernorm"},
                        {"is_causal", false},
                        {"kv_lora_rank", 512},
                        {"text_config", {{"hidden_size", 1}}}};
  for (const auto& [key, value] : changes.items()) {
    EXPECT_EQ(NotBuilt({{key, value}}),
              key + ": " + value.dump() +
                  " is not built: LlamaForCausalLM has no such key; take it out if it changes no "
                  "answer");
  }
  EXPECT_EQ(
      NotBuilt({{"layer_types", {"full_attention", "sliding_attention"}}}),
      "layer_types: [\"full_attention\",\"sliding_attention\"] is not built, only layers that "
      "are all \"full_attention\"");
  EXPECT_THAT(NotBuilt({{"mlp_layer_types", {"sparse"}}}),
              HasSubstr("only layers that are all \"dense\""));
}

TEST(ArchitecturesTest, NamesKeyValueAndLimit) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "vocab_size"}) {
    const std::string expected = std::string(key) + ": expected a whole number from 1 to ";
    EXPECT_THAT(Invalid({{key, nullptr}}), AllOf(StartsWith(expected), EndsWith(", got nothing")));
    EXPECT_THAT(Invalid({{key, 0}}), AllOf(StartsWith(expected), EndsWith(", got 0")));
  }
  EXPECT_EQ(Invalid({{"num_hidden_layers", 1025}}),
            "num_hidden_layers: expected a whole number from 1 to 1024, got 1025");
  EXPECT_EQ(Invalid({{"hidden_size", 1048577}}),
            "hidden_size: expected a whole number from 1 to 1048576, got 1048577");
  EXPECT_EQ(Invalid({{"vocab_size", 16777217}}),
            "vocab_size: expected a whole number from 1 to 16777216, got 16777217");
  EXPECT_EQ(Invalid({{"max_position_embeddings", 16777217}}),
            "max_position_embeddings: expected a whole number from 1 to 16777216, got 16777217");
  EXPECT_EQ(Invalid({{"num_attention_heads", 1025}}),
            "num_attention_heads: expected a whole number from 1 to 1024, got 1025");
  EXPECT_EQ(Invalid({{"intermediate_size", -4}}),
            "intermediate_size: expected a whole number from 1 to 4194304, got -4");
  EXPECT_EQ(Invalid({{"max_position_embeddings", 16777216}, {"head_dim", 66}}),
            "max_position_embeddings: 16777216 times head_dim, 66, is above the limit of "
            "1073741824");
}

TEST(ArchitecturesTest, TakesWholeNumbersOnly) {
  for (const char* text : {"64.5", "\"64\"", "true", "[64]", "18446744073709551615",
                           "18446744073709551680", "-9223372036854775808"}) {
    Json config = LlamaConfig();
    config["hidden_size"] = Json::parse(text);
    EXPECT_THAT(Refusal(config, absl::StatusCode::kInvalidArgument),
                HasSubstr("expected a whole number from 1 to 1048576"))
        << text;
  }
}

TEST(ArchitecturesTest, RefusesHeadsThatDoNotFit) {
  EXPECT_EQ(Invalid({{"num_key_value_heads", 3}}),
            "num_key_value_heads: expected a divisor of num_attention_heads, 8, got 3");
  EXPECT_EQ(Invalid({{"num_key_value_heads", 16}}),
            "num_key_value_heads: expected a whole number from 1 to 8, got 16");
  EXPECT_EQ(Invalid({{"hidden_size", 60}}),
            "hidden_size: expected a multiple of num_attention_heads, 8, where head_dim is "
            "missing, got 60");
  EXPECT_EQ(NotBuilt({{"head_dim", 7}}),
            "layer 0: a head_dim of 7, other than an even one up to 256, is not built");
  EXPECT_EQ(NotBuilt({{"hidden_size", 8}}),
            "layer 0: a head_dim of 1, other than an even one up to 256, is not built");
  EXPECT_EQ(NotBuilt({{"hidden_size", 16384}}),
            "layer 0: a head_dim of 2048, other than an even one up to 256, is not built");
}

TEST(ArchitecturesTest, RefusesOtherValuesOutOfRange) {
  EXPECT_EQ(Invalid({{"rms_norm_eps", 0}}),
            "rms_norm_eps: expected a number above 0, at most 1, got 0");
  EXPECT_EQ(Invalid({{"rms_norm_eps", 1e-95}}),  // 0 as a float
            "rms_norm_eps: expected a number above 0, at most 1, got 1e-95");
  EXPECT_EQ(Invalid({{"rms_norm_eps", "1e-5"}}),
            "rms_norm_eps: expected a number above 0, at most 1, got \"1e-5\"");
  EXPECT_THAT(Invalid({{"rope_theta", -1}}),
              HasSubstr("rope_theta: expected a number above 0, at most 1e+15, got -1"));
  EXPECT_EQ(Invalid({{"tie_word_embeddings", 1}}),
            "tie_word_embeddings: expected true or false, got 1");
  EXPECT_EQ(Invalid({{"eos_token_id", 100}}),
            "eos_token_id: expected a whole number from 0 to 99, got 100");
  EXPECT_EQ(Invalid({{"eos_token_id", {1, -1}}}),
            "eos_token_id[1]: expected a whole number from 0 to 99, got -1");
  EXPECT_EQ(Invalid({{"torch_dtype", "float16"}, {"dtype", "bfloat16"}}),
            "torch_dtype: \"float16\" but dtype is \"bfloat16\"");
  EXPECT_EQ(NotBuilt({{"dtype", "int8"}}),
            "dtype: \"int8\" is not built, only float32, bfloat16, float16");
  EXPECT_EQ(Parsed(With({{"dtype", "float16"}})).dtype, kernels::ElementType::kF16);
}

TEST(ArchitecturesTest, RefusesTextThatIsNotAConfig) {
  const auto message = [](std::string_view text) {
    return std::string(ParseModelSpec(text).status().message());
  };
  EXPECT_EQ(message(""), "config.json: not JSON, it is empty");
  EXPECT_EQ(message("[]"), "config.json: expected an object, got []");
  EXPECT_THAT(message(R"({"rope_theta": NaN})"), HasSubstr("not JSON"));
  EXPECT_THAT(message(R"({"rope_theta": 1e400})"), HasSubstr("beyond the range of float64"));
  EXPECT_EQ(message(R"({"a": 1, "a": 2})"), "config.json: key \"a\" twice");
  EXPECT_EQ(message(std::string(100000, '[') + std::string(100000, ']')),
            "config.json: JSON nested deeper than the limit of 32");
}

TEST(ArchitecturesTest, ShowsValuesInOneShortLine) {
  const std::string refusal = NotBuilt({{"hidden_act", std::string(1000, 'x') + "\n"}});
  EXPECT_LT(refusal.size(), 200U);
  EXPECT_THAT(NotBuilt({{"hidden_act", "a\nb\x01"}}), HasSubstr(R"("a\nb\u0001")"));
}

TEST(ArchitecturesTest, ReadsRopeScaling) {
  EXPECT_EQ(Parsed(With({{"rope_scaling", {{"type", "default"}}}})).attention().rope->scaling,
            RopeSpec::Scaling::kNone);
  const RopeSpec linear = Parsed(With({{"rope_scaling", {{"type", "linear"}, {"factor", 4}}}}))
                              .attention()
                              .rope.value();
  EXPECT_EQ(linear.scaling, RopeSpec::Scaling::kLinear);
  EXPECT_EQ(linear.factor, 4.0);

  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 1024},
                       {"rope_theta", 500000.0}};
  const RopeSpec rope = Parsed(With({{"rope_parameters", llama3}})).attention().rope.value();
  EXPECT_EQ(rope.scaling, RopeSpec::Scaling::kLlama3);
  EXPECT_EQ(rope.theta, 500000.0);
  EXPECT_EQ(rope.factor, 8.0);
  EXPECT_EQ(rope.low_freq_factor, 1.0);
  EXPECT_EQ(rope.high_freq_factor, 4.0);
  EXPECT_EQ(rope.original_max_positions, 1024);
  Parsed(With({{"rope_parameters", llama3}, {"rope_scaling", llama3}, {"rope_theta", 5e5}}));

  for (const char* key :
       {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    Json without = llama3;
    without.erase(key);
    EXPECT_THAT(Invalid({{"rope_scaling", without}}),
                AllOf(StartsWith("rope_scaling." + std::string(key) + ": expected a "),
                      EndsWith(", got nothing")));
  }
}

TEST(ArchitecturesTest, RefusesOtherRopes) {
  for (const char* type : {"yarn", "dynamic", "longrope", "su"}) {
    EXPECT_EQ(NotBuilt({{"rope_scaling", {{"rope_type", type}}}}),
              "rope_scaling.rope_type: \"" + std::string(type) + "\" is not built");
  }
  EXPECT_EQ(NotBuilt({{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}}),
            "rope_parameters.full_attention: {\"rope_type\":\"default\"} is not built");
  EXPECT_EQ(NotBuilt({{"rope_parameters", {{"partial_rotary_factor", 0.25}}}}),
            "layer 0: rotation of a part of a head is not built");
  EXPECT_EQ(Invalid({{"rope_scaling", {{"type", "linear"}, {"rope_type", "default"}}}}),
            "rope_scaling.rope_type: \"default\" but type is \"linear\"");
  EXPECT_EQ(Invalid({{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}),
            "rope_scaling.factor: expected a number of at least 1, got 0.5");
  EXPECT_EQ(Invalid({{"rope_scaling", "linear"}}),
            "rope_scaling: expected an object, got \"linear\"");
  EXPECT_EQ(Invalid({{"rope_theta", 100}, {"rope_parameters", {{"rope_theta", 200}}}}),
            "rope_parameters.rope_theta: 200 but 100 outside it");
  EXPECT_EQ(Invalid({{"rope_scaling", {{"type", "linear"}, {"factor", 2}}},
                     {"rope_parameters", {{"type", "default"}}}}),
            "rope_scaling: differs from rope_parameters, want one of them");
  EXPECT_EQ(Invalid({{"rope_scaling",
                      {{"rope_type", "llama3"},
                       {"factor", 8},
                       {"low_freq_factor", 4},
                       {"high_freq_factor", 4},
                       {"original_max_position_embeddings", 1024}}}}),
            "rope_scaling.high_freq_factor: expected a number above low_freq_factor, 4, got 4");
}

TEST(ArchitecturesTest, ReadsPublishedCrossLayerKeys) {
  const auto preset = [](const Json& cross_layer) {
    return Parsed(With({{"cross_layer", cross_layer}})).plan;
  };
  EXPECT_EQ(Parsed(With({{"num_kv_shared_layers", 2}})).plan,
            preset({{"preset", "kv-groups"}, {"groups", Json::array({{3, 4, 5}})}}));
  EXPECT_FALSE(Parsed(With({{"num_kv_shared_layers", 0}})).plan);
  EXPECT_EQ(Parsed(With({{"use_cla", true}, {"cla_share_factor", 2}})).plan,
            preset({{"preset", "cla"}, {"factor", 2}}));
  EXPECT_FALSE(Parsed(With({{"use_cla", false}, {"cla_share_factor", 2}})).plan);
  EXPECT_FALSE(Parsed(With({{"cla_share_factor", 2}})).plan);
  const Json groups = {{0, 1}, {2, 3, 4}};
  EXPECT_EQ(Parsed(With({{"kv_reuse_group", groups}})).plan,
            preset({{"preset", "kv-groups"}, {"groups", groups}}));
  EXPECT_FALSE(Parsed(With({{"kv_reuse_group", Json::array()}})).plan);
}

TEST(ArchitecturesTest, RefusesPublishedKeysThatMakeNoSense) {
  EXPECT_EQ(Invalid({{"num_kv_shared_layers", 6}}),
            "num_kv_shared_layers: expected a whole number from 0 to 5, got 6");
  EXPECT_EQ(Invalid({{"use_cla", true}}),
            "cla_share_factor: expected a whole number from 1 to 6, got nothing");
  EXPECT_EQ(Invalid({{"use_cla", 1}}), "use_cla: expected true or false, got 1");
  EXPECT_EQ(Invalid({{"use_cla", true}, {"cla_share_factor", 0}}),
            "cla_share_factor: expected a whole number from 1 to 6, got 0");
  EXPECT_EQ(Invalid({{"kv_reuse_group", {0, 1}}}),
            "kv_reuse_group[0]: expected a list of layers, got 0");
  EXPECT_EQ(Invalid({{"kv_reuse_group", 3}}),
            "kv_reuse_group: expected a list of groups of layers, got 3");
  EXPECT_EQ(Invalid({{"cross_layer", {{"preset", "svformer"}}}, {"num_kv_shared_layers", 2}}),
            "num_kv_shared_layers: set beside cross_layer, want one of them");
  EXPECT_EQ(Invalid({{"use_cla", true}, {"cla_share_factor", 2}, {"num_kv_shared_layers", 2}}),
            "use_cla: set beside num_kv_shared_layers, want one of them");
}

}  // namespace
}  // namespace strata::engine::architectures_test
