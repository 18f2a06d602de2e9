#include "engine/model/model_spec.h"

#include <functional>
#include <string>
#include <vector>

#include "engine/model/architectures.h"
#include "engine/model/tensors_of.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/plan/plan_presets.h"

namespace strata::engine::model_spec_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

ModelSpec Llama(bool tied = true) {
  return ParseModelSpec(std::string(R"({"model_type":"llama","hidden_size":64,"vocab_size":100,
                            "intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":8,
                            "num_key_value_heads":2,"head_dim":16,"tie_word_embeddings":)") +
                        (tied ? "true}" : "false}"))
      .value();
}

TEST(ModelSpecTest, EveryValueThatIsNotBuiltIsRefusedByName) {
  struct Case {
    std::function<void(ModelSpec&)> change;
    std::string refusal;
  };
  const auto layer = [](const auto& change) {
    return [change](ModelSpec& spec) { change(spec.layers[1]); };
  };
  const auto attention = [](const auto& change) {
    return [change](ModelSpec& spec) { change(spec.layers[1].attention); };
  };
  const std::vector<Case> cases = {
      {[](ModelSpec& s) { s.norm = NormKind::kLayerNorm; }, "a norm other than RMSNorm"},
      {[](ModelSpec& s) { s.embedding_multiplier = 8; }, "a multiplier of embeddings of 8"},
      {[](ModelSpec& s) { s.logit_multiplier = 0.5; }, "a multiplier of logits of 0.5"},
      {[](ModelSpec& s) { s.logit_cap = 30; }, "a cap of logits at 30"},
      {layer([](LayerSpec& l) { l.norms = NormPlacement::kAfter; }),
       "layer 1: a norm elsewhere than before each block"},
      {layer([](LayerSpec& l) { l.residual_multiplier = 0.22; }),
       "layer 1: a multiplier of residuals of 0.22"},
      {layer([](LayerSpec& l) { l.feed_forward.gated = false; }),
       "layer 1: a feed-forward block without a gate"},
      {layer([](LayerSpec& l) { l.feed_forward.activation = Activation::kGelu; }),
       "layer 1: an activation other than SiLU"},
      {layer([](LayerSpec& l) { l.feed_forward.biases = true; }),
       "layer 1: a bias of the feed-forward block"},
      {layer([](LayerSpec& l) { l.feed_forward.width = 128; }),
       "layer 1: a layer with other values than layer 0"},
      {attention([](AttentionSpec& a) { a.qkv_biases = true; }),
       "layer 1: a bias of queries, keys and values"},
      {attention([](AttentionSpec& a) { a.output_bias = true; }),
       "layer 1: a bias of the attention's output"},
      {attention([](AttentionSpec& a) { a.query_key_norm = HeadNorm::kPerHead; }),
       "layer 1: a norm of queries and keys"},
      {attention([](AttentionSpec& a) { a.rope.reset(); }), "layer 1: attention without rotation"},
      {attention([](AttentionSpec& a) { a.rope->width = 8; }),
       "layer 1: rotation of a part of a head"},
      {attention([](AttentionSpec& a) { a.rope->interleaved = true; }),
       "layer 1: rotation of neighbouring elements"},
      {attention([](AttentionSpec& a) { a.window = 64; }), "layer 1: a window of 64 tokens"},
      {attention([](AttentionSpec& a) { a.score_cap = 50; }), "layer 1: a cap of scores at 50"},
      {attention([](AttentionSpec& a) { a.score_scale = 1; }), "layer 1: a scale of scores of 1"},
      {attention([](AttentionSpec& a) { a.num_kv_heads = 4; }),
       "layer 1: a layer with other values than layer 0"},
  };
  EXPECT_TRUE(CheckRuns(Llama()).ok());
  for (const Case& test : cases) {
    ModelSpec spec = Llama();
    test.change(spec);
    EXPECT_EQ(CheckRuns(spec), absl::UnimplementedError(test.refusal + " is not built"));
  }
}

TEST(TensorsOfTest, NamesShapesAndLivingHeads) {
  const ModelSpec spec = Llama(/*tied=*/false);
  const kvcache::SharingPlan plan = *kvcache::NamedPlan("svformer", spec.shape());
  const TensorList list = TensorsOf(spec, plan);
  EXPECT_EQ(std::distance(list.begin(), list.end()), 3 + 3 * 10);

  const TensorSpec& query = list.at(TensorRole::kQuery, 2);
  EXPECT_EQ(query.name, "model.layers.2.self_attn.q_proj.weight");
  EXPECT_THAT(query.shape, ElementsAre(8 * 16, 64));
  EXPECT_EQ(query.LivingShape(), query.shape);
  EXPECT_TRUE(query.needed);

  const TensorSpec& value = list.at(TensorRole::kValue, 1);
  EXPECT_EQ(value.name, "model.layers.1.self_attn.v_proj.weight");
  EXPECT_THAT(value.shape, ElementsAre(2 * 16, 64));
  EXPECT_THAT(value.living, IsEmpty());
  EXPECT_FALSE(value.needed);
  EXPECT_TRUE(list.at(TensorRole::kValue, 0).needed);

  EXPECT_TRUE(list.at(TensorRole::kHead).needed);
  EXPECT_EQ(list.at(TensorRole::kEmbedding).or_name, "");
  EXPECT_THAT(list.at(TensorRole::kDown, 1).shape, ElementsAre(64, 96));
  EXPECT_FALSE(list.at(TensorRole::kValueMix, 1).needed);
}

TEST(TensorsOfTest, ATiedModelNeedsOneOfTwo) {
  const ModelSpec spec = Llama();
  const TensorList list = TensorsOf(spec, kvcache::SharingPlan::Plain(spec.shape()));
  EXPECT_FALSE(list.at(TensorRole::kHead).needed);
  EXPECT_EQ(list.at(TensorRole::kEmbedding).or_name, list.at(TensorRole::kHead).name);
}

TEST(TensorsOfTest, PartsOfProjectionsLive) {
  const ModelSpec spec = Llama();
  // Two of eight query heads hold the last layers' keys and values: one kv head of two.
  const kvcache::SharingPlan plan = *kvcache::NamedPlan("skipv1", spec.shape());
  const TensorSpec value = TensorsOf(spec, plan).at(TensorRole::kValue, 2);
  EXPECT_THAT(value.living, ElementsAre(0));
  EXPECT_THAT(value.LivingShape(), ElementsAre(16, 64));
  EXPECT_THAT(value.shape, ElementsAre(32, 64));
}

}  // namespace
}  // namespace strata::engine::model_spec_test
