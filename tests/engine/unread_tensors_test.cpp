// Tensors of a checkpoint that the model does not read.

#include <string>
#include <utility>
#include <vector>

#include "engine/serve/load_model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/base/errors.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::unread_tensors_test {
namespace {

using ::strata::testing::MakeTinyModel;
using ::strata::testing::NamedTensor;
using ::strata::testing::TinyModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

class UnreadTensorsTest : public ::testing::Test {
 protected:
  // As the server loads it.
  absl::StatusOr<LoadedModel> Load(const TinyModel& model, const std::string& cross_layer = "") {
    dir_ = strata::testing::WriteModelDir(model, scratch_.path());
    EngineOptions options;
    options.model_dir = dir_;
    options.cross_layer = cross_layer;
    options.device = "cpu";
    options.threads = 1;
    options.cache_bytes = size_t{1} << 20;
    options.weights = "f32";
    return LoadModel(options);
  }
  // The message without the model's folder, and the same from `strata plan`.
  std::string Refusal(const TinyModel& model) {
    const auto loaded = Load(model);
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kInvalidArgument) << loaded.status();
    const auto explained = ExplainPlan(dir_, "", "auto", ScoreReuse::kAuto);
    EXPECT_EQ(explained.status(), loaded.status());
    const std::string message(loaded.status().message());
    const std::string where = dir_.string() + ": ";
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message.starts_with(where) ? message.substr(where.size()) : message;
  }

  const strata::testing::ScratchDir scratch_;
  std::filesystem::path dir_;
};

TinyModel With(TinyModel model, const std::vector<std::string>& names) {
  for (const std::string& name : names) model.tensors.push_back({name, {4}, {1, 2, 3, 4}});
  return model;
}

TEST_F(UnreadTensorsTest, ATensorThatTheArchitectureDoesNotKnowIsRefusedByName) {
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.bias", "model.layers.3.self_attn.q_norm.weight",
        "model.layers.1.mlp.gate_proj.bias", "model.layers.2.pre_feedforward_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight_scale", "model.layers.0.input_layernorm.bias",
        "model.layers.0.mlp.experts.0.gate_proj.weight", "model.norm.bias", "lm_head.bias",
        "model.embed_positions.weight", "v_head.summary.weight",
        // Layers that do not exist.
        "model.layers.4.input_layernorm.weight", "model.layers.00.input_layernorm.weight",
        "model.layers.-1.input_layernorm.weight", "model.layers.99999999999.mlp.up_proj.weight",
        "model.layers..mlp.up_proj.weight", "model.layers.0",
        // Names like those of unused tensors, but others.
        "rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.scale"}) {
    EXPECT_EQ(Refusal(With(MakeTinyModel({}), {name})),
              Concat("tensor ", name,
                     " has no place in LlamaForCausalLM of 4 layers; without it the "
                     "answers would be wrong"));
  }
}

TEST_F(UnreadTensorsTest, TheFirstIsNamedAndTheOthersAreCounted) {
  EXPECT_THAT(Refusal(With(MakeTinyModel({}), {"model.layers.1.self_attn.k_proj.bias",
                                               "model.layers.0.self_attn.v_proj.bias",
                                               "model.layers.0.self_attn.rotary_emb.inv_freq",
                                               "model.layers.0.self_attn.q_proj.bias"})),
              HasSubstr("tensor model.layers.0.self_attn.q_proj.bias (and 2 more) has no place"));
  EXPECT_THAT(Refusal(With(MakeTinyModel({}), {"a\nb"})), HasSubstr("tensor a\\nb has no place"));
}

TEST_F(UnreadTensorsTest, TheDeadOnesAreListedAndNotMissed) {
  const std::vector<std::string> dead = {"model.layers.0.self_attn.rotary_emb.cos_cached",
                                         "model.layers.0.self_attn.rotary_emb.inv_freq",
                                         "model.layers.3.self_attn.rotary_emb.sin_cached",
                                         "model.rotary_emb.inv_freq"};
  const auto loaded = Load(With(MakeTinyModel({}), dead));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->info.unused_tensors, dead);
  EXPECT_EQ(loaded->info.unused_bytes, 4 * 16U);
}

TEST_F(UnreadTensorsTest, WhatThePlanLeavesUnreadIsSummedUp) {
  const auto shared = Load(MakeTinyModel({.cross_layer = {{"preset", "svformer"}}, .trim = false}));
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_THAT(shared->info.unused_tensors, ElementsAre("model.layers.1.self_attn.v_proj.weight",
                                                       "model.layers.2.self_attn.v_proj.weight",
                                                       "model.layers.3.self_attn.v_proj.weight"));
  EXPECT_EQ(shared->info.unused_bytes, 3 * 32 * 32 * sizeof(float));

  // Two of four heads of layers 1 to 3 apply layer 0's scores: half of their queries and keys.
  const Json reuse = {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 2}};
  const auto half = Load(MakeTinyModel({.cross_layer = reuse, .trim = false}));
  ASSERT_TRUE(half.ok()) << half.status();
  EXPECT_EQ(half->info.unused_tensors.size(), 6U);
  EXPECT_EQ(half->info.unused_tensors[0], "model.layers.1.self_attn.k_proj.weight (in part)");
  EXPECT_EQ(half->info.unused_bytes, 6 * 16 * 32 * sizeof(float));

  const auto trimmed = Load(MakeTinyModel({.cross_layer = reuse, .trim = true}));
  ASSERT_TRUE(trimmed.ok()) << trimmed.status();
  EXPECT_THAT(trimmed->info.unused_tensors, IsEmpty());
  EXPECT_EQ(trimmed->info.unused_bytes, 0U);
}

// A learned mix is a part of the model, even if config.json does not mention it; another plan on
// the command line overrides it.
TEST_F(UnreadTensorsTest, LearnedMixesAreReadOrRefused) {
  TinyModel model = MakeTinyModel({.cross_layer = {{"preset", "resformer"}, {"mix", "learnable"}}});
  ASSERT_TRUE(Load(model).ok());
  const auto plain = Load(model, "plain");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_THAT(plain->info.unused_tensors, ElementsAre("model.layers.1.self_attn.value_mix",
                                                      "model.layers.2.self_attn.value_mix",
                                                      "model.layers.3.self_attn.value_mix"));
  Json config = Json::parse(model.config_json);
  for (const Json& cross_layer :
       {Json(), Json{{"preset", "plain"}}, Json{{"preset", "resformer"}, {"mix", "identity"}}}) {
    config["cross_layer"] = cross_layer;
    model.config_json = config.dump();
    EXPECT_EQ(
        Refusal(model),
        "model.layers.1.self_attn.value_mix: the checkpoint has learned a mix for layer 1, the "
        "plan of config.json has no learnable one there");
  }
}

TEST_F(UnreadTensorsTest, AHeadBesideTiedEmbeddingsMustBeTheSame) {
  TinyModel model = MakeTinyModel({});
  NamedTensor head = model.Tensor("model.embed_tokens.weight");
  head.name = "lm_head.weight";
  model.tensors.push_back(head);
  const auto loaded = Load(model);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->info.unused_tensors, ElementsAre("lm_head.weight"));
  model.tensors.back().data.back() += 1;
  const auto refused = Load(model);
  EXPECT_EQ(refused.status().message(),
            "lm_head.weight: not the same as model.embed_tokens.weight, though config.json has "
            "tie_word_embeddings = true; set it to false, or leave the tensor out");
}

}  // namespace
}  // namespace strata::engine::unread_tensors_test
