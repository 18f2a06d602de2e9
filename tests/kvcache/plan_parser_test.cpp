#include "kvcache/plan/plan_parser.h"

#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/plan/plan_presets.h"
#include "nlohmann/json.hpp"
#include "tests/kvcache/plan_invariants.h"
#include "tests/kvcache/plan_refusals.h"

namespace strata::kvcache::plan_parser_test {
namespace {

using nlohmann::json;

constexpr AttentionShape kShape = {
    .num_layers = 8, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr AttentionShape kFewLayers = {
    .num_layers = 3, .num_query_heads = 4, .num_kv_heads = 4, .head_dim = 8};

SharingPlan Parse(const std::string& text, const AttentionShape& shape = kShape) {
  absl::StatusOr<SharingPlan> plan = ParsePlan(json::parse(text), shape);
  EXPECT_TRUE(plan.ok()) << text << ": " << plan.status();
  if (!plan.ok()) return SharingPlan::Plain(shape);
  EXPECT_EQ(PlanInvariants(*plan).Check(), "") << text;
  return *std::move(plan);
}

std::string Refusal(const json& cross_layer, const AttentionShape& shape = kShape) {
  const absl::StatusOr<SharingPlan> plan = ParsePlan(cross_layer, shape);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << cross_layer;
  return std::string(plan.status().message());
}

// The layers that the heads of each layer read, from the same head; -1 if heads differ.
std::vector<int32_t> LayersOf(const SharingPlan& plan, HeadRef HeadSources::*source) {
  std::vector<int32_t> layers;
  for (int32_t layer = 0; layer < plan.shape().num_layers; ++layer) {
    layers.push_back((plan.sources(layer, 0).*source).layer);
    for (int32_t head = 0; head < plan.shape().num_query_heads; ++head) {
      const HeadRef from = plan.sources(layer, head).*source;
      const bool query_head = source == &HeadSources::scores;
      if (from.head != (query_head ? head : plan.shape().KvHeadOf(head)) ||
          from.layer != layers.back()) {
        layers.back() = -1;
        break;
      }
    }
  }
  return layers;
}

constexpr auto kScores = &HeadSources::scores;
constexpr auto kKeys = &HeadSources::keys;
constexpr auto kValues = &HeadSources::values;
const std::vector<int32_t> kOwn = {0, 1, 2, 3, 4, 5, 6, 7};

TEST(ParsePlan, NothingIsPlain) {
  for (const char* text :
       {"null", "{}", "[]", R"({"preset":"plain"})", R"({"keys":null,"values":[null]})",
        R"({"preset":"reuse","compute_layers":[0],"heads":0})", R"({"preset":"cla","factor":1})",
        R"([{"preset":"svformer"},{"preset":"plain"}])"}) {
    EXPECT_EQ(Parse(text), SharingPlan::Plain(kShape)) << text;
  }
}

TEST(ParsePlan, Svformer) {
  const SharingPlan plan = Parse(R"({"preset":"svformer"})");
  EXPECT_EQ(LayersOf(plan, kScores), kOwn);
  EXPECT_EQ(LayersOf(plan, kKeys), kOwn);
  EXPECT_EQ(LayersOf(plan, kValues), std::vector<int32_t>(8, 0));
  EXPECT_EQ(LayersOf(Parse(R"({"preset":"svformer","anchors":[0,3,6]})"), kValues),
            (std::vector<int32_t>{0, 0, 0, 3, 3, 3, 6, 6}));
}

TEST(ParsePlan, Resformer) {
  const SharingPlan identity = Parse(R"({"preset":"resformer","mix":"identity"})");
  EXPECT_EQ(identity, Parse(R"({"preset":"resformer"})"));
  EXPECT_EQ(LayersOf(identity, kValues), kOwn);
  for (int32_t head = 0; head < kShape.num_kv_heads; ++head) {
    EXPECT_FALSE(identity.mix(0, head).has_value());
    for (int32_t layer = 1; layer < kShape.num_layers; ++layer) {
      EXPECT_EQ(identity.mix(layer, head), (ValueMix{.own = 0.5F, .first = 0.5F}));
      EXPECT_FALSE(identity.learnable_mix(layer));
    }
  }
  const SharingPlan constant = Parse(R"({"preset":"resformer","mix":"constant"})");
  EXPECT_EQ(constant.mix(7, 1), (ValueMix{.own = 1, .first = 2}));
  const SharingPlan sparse =
      Parse(R"({"preset":"resformer","mix":"constant","own":0.25,"first":-3,"layers":[6,7]})");
  EXPECT_FALSE(sparse.mix(5, 0).has_value());
  EXPECT_EQ(sparse.mix(6, 0), (ValueMix{.own = 0.25F, .first = -3}));
  const SharingPlan learnable = Parse(R"({"preset":"resformer","mix":"learnable","layers":[3]})");
  EXPECT_TRUE(learnable.learnable_mix(3));
  EXPECT_FALSE(learnable.learnable_mix(2));
  EXPECT_EQ(learnable.mix(3, 1), (ValueMix{.own = 0.5F, .first = 0.5F}));
}

TEST(ParsePlan, AMixOnAValueThatIsSharedIsNotRun) {
  const SharingPlan plan = Parse(R"([{"preset":"svformer","anchors":[0,4]},
                                     {"preset":"resformer","mix":"learnable"}])");
  EXPECT_FALSE(plan.learnable_mix(3));
  EXPECT_TRUE(plan.learnable_mix(4)) << "an anchor's values are its own";
}

TEST(ParsePlan, FullReuse) {
  const SharingPlan plan = Parse(R"({"preset":"reuse","compute_layers":[0,3]})");
  const std::vector<int32_t> computing = {0, 0, 0, 3, 3, 3, 3, 3};
  EXPECT_EQ(LayersOf(plan, kScores), computing);
  EXPECT_EQ(LayersOf(plan, kKeys), computing);
  EXPECT_EQ(LayersOf(plan, kValues), kOwn);
  EXPECT_EQ(plan.Run(2, 1), HeadRun::kReuseScores);
  EXPECT_EQ(plan.StoredScoreHeads(), 4);
  EXPECT_EQ(plan.LastReaderOfScores(0), 2);
  EXPECT_EQ(plan.LastReaderOfScores(3), 7);
}

// Layer 0 hands on (0,0) (0,1) (0,2) (0,3). Layer 1 computes heads 1-3 and hands on (1,1) (1,2)
// (1,3) (0,0). So head 0 of layer 2 applies the scores of (1,1).
TEST(ParsePlan, PartialReuseOfOneHead) {
  const SharingPlan plan =
      Parse(R"({"preset":"reuse","compute_layers":[0],"heads":1})", kFewLayers);
  const HeadRef expected[3][4] = {{{0, 0}, {0, 1}, {0, 2}, {0, 3}},
                                  {{0, 0}, {1, 1}, {1, 2}, {1, 3}},
                                  {{1, 1}, {2, 1}, {2, 2}, {2, 3}}};
  for (int32_t layer = 0; layer < 3; ++layer) {
    for (int32_t head = 0; head < 4; ++head) {
      EXPECT_EQ(plan.sources(layer, head).scores, expected[layer][head]) << layer << " " << head;
      EXPECT_EQ(plan.sources(layer, head).keys, expected[layer][head]) << layer << " " << head;
      EXPECT_EQ(plan.sources(layer, head).values, (HeadRef{layer, head}));
    }
  }
}

// Layer 1 hands on (1,2) (1,3) (0,0) (0,1).
TEST(ParsePlan, PartialReuseOfTwoHeads) {
  const SharingPlan plan =
      Parse(R"({"preset":"reuse","compute_layers":[0],"heads":2})", kFewLayers);
  const HeadRef expected[3][4] = {{{0, 0}, {0, 1}, {0, 2}, {0, 3}},
                                  {{0, 0}, {0, 1}, {1, 2}, {1, 3}},
                                  {{1, 2}, {1, 3}, {2, 2}, {2, 3}}};
  for (int32_t layer = 0; layer < 3; ++layer) {
    for (int32_t head = 0; head < 4; ++head) {
      EXPECT_EQ(plan.sources(layer, head).scores, expected[layer][head]) << layer << " " << head;
    }
  }
  EXPECT_EQ(plan.StoredScoreHeads(), 4) << "two handed to layer 1, two more to layer 2";
}

// R = 3 takes reused heads on: layer 1 hands on (1,3) (0,0) (0,1) (0,2).
TEST(ParsePlan, PartialReuseHandsReusedHeadsOn) {
  const SharingPlan plan =
      Parse(R"({"preset":"reuse","compute_layers":[0],"heads":3})", kFewLayers);
  EXPECT_EQ(plan.sources(2, 0).scores, (HeadRef{1, 3}));
  EXPECT_EQ(plan.sources(2, 1).scores, (HeadRef{0, 0}));
  EXPECT_EQ(plan.sources(2, 2).scores, (HeadRef{0, 1}));
  EXPECT_EQ(plan.sources(2, 3).scores, (HeadRef{2, 3}));
}

TEST(ParsePlan, SvformerWithReuseReusesOutputs) {
  const SharingPlan plan =
      Parse(R"([{"preset":"svformer"},{"preset":"reuse","compute_layers":[0,4]}])");
  EXPECT_EQ(plan.Run(3, 2), HeadRun::kReuseOutput);
  EXPECT_EQ(plan.OutputOwner(3, 2), (HeadRef{0, 2}));
  EXPECT_EQ(plan.OutputOwner(7, 2), (HeadRef{4, 2}));
  EXPECT_EQ(plan.StoredScoreHeads(), 0);
  EXPECT_EQ(plan, Parse(R"([{"preset":"reuse","compute_layers":[0,4]},{"preset":"svformer"}])"));
}

TEST(ParsePlan, SlaReadsTheSkippedLayersOwnPlanes) {
  const SharingPlan plan = Parse(R"({"preset":"sla","skip_layers":3,"skip_heads":2})");
  EXPECT_EQ(plan.sources(2, 3).keys, (HeadRef{2, 1})) << "below skip_layers all is standard";
  EXPECT_EQ(plan.sources(3, 1).keys, (HeadRef{3, 0}));
  EXPECT_EQ(plan.sources(3, 2).keys, (HeadRef{0, 1}));
  // Layer 3's own projection, though layer 3's head itself reads layer 0.
  EXPECT_EQ(plan.sources(6, 3).keys, (HeadRef{3, 1}));
  EXPECT_EQ(plan.sources(6, 3).values, (HeadRef{3, 1}));
  EXPECT_EQ(plan.KeyHeads(3), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(plan.KeyHeads(6), (std::vector<int32_t>{0}));
  EXPECT_EQ(LayersOf(plan, kScores), kOwn);
}

TEST(ParsePlan, SlaKeepsNothingThatIsNotRead) {
  const AttentionShape shape = {
      .num_layers = 12, .num_query_heads = 12, .num_kv_heads = 12, .head_dim = 64};
  const SharingPlan plan = Parse(R"({"preset":"sla","skip_layers":9,"skip_heads":9})", shape);
  for (int32_t layer = 0; layer < 12; ++layer) {
    const size_t live = layer < 9 ? 12 : 3;
    EXPECT_EQ(plan.KeyHeads(layer).size(), live) << layer;
    EXPECT_EQ(plan.ValueHeads(layer).size(), live) << layer;
    EXPECT_EQ(plan.QueryHeads(layer).size(), 12U) << layer;
  }
}

TEST(ParsePlan, ClaAndKvGroups) {
  const SharingPlan cla = Parse(R"({"preset":"cla","factor":3})");
  EXPECT_EQ(LayersOf(cla, kKeys), (std::vector<int32_t>{0, 0, 0, 3, 3, 3, 6, 6}));
  EXPECT_EQ(LayersOf(cla, kValues), LayersOf(cla, kKeys));
  EXPECT_EQ(LayersOf(cla, kScores), kOwn);
  EXPECT_EQ(cla, Parse(R"({"preset":"kv-groups","groups":[[0,1,2],[3,4,5],[6,7]]})"));
  EXPECT_EQ(LayersOf(Parse(R"({"preset":"kv-groups","groups":[[1,3,5]]})"), kValues),
            (std::vector<int32_t>{0, 1, 2, 1, 4, 1, 6, 7}));
}

TEST(ParsePlan, SkipV1) {
  const SharingPlan plan = Parse(R"({"preset":"skipv1"})");
  EXPECT_EQ(plan.sources(5, 1).values, (HeadRef{5, 0}));
  EXPECT_EQ(plan.sources(5, 2).values, (HeadRef{0, 1}));
  EXPECT_EQ(LayersOf(plan, kKeys), kOwn);
}

TEST(ParsePlan, FusedKvLite) {
  const SharingPlan plan = Parse(R"({"preset":"fusedkv-lite","layer":5})");
  EXPECT_EQ(LayersOf(plan, kKeys), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 5, 5}));
  EXPECT_EQ(LayersOf(plan, kValues), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 0, 0}));
}

TEST(ParsePlan, ReuseAfterClaDropsTheReusersKeys) {
  const SharingPlan plan =
      Parse(R"([{"preset":"cla","factor":2},{"preset":"reuse","compute_layers":[0,1,3,4,5,6,7]}])");
  EXPECT_EQ(plan.sources(2, 0).scores, (HeadRef{1, 0}));
  EXPECT_EQ(plan.sources(2, 0).keys, (HeadRef{0, 0}));
  EXPECT_EQ(plan.KeyHeads(2), (std::vector<int32_t>{0, 1})) << "read by layer 3";
}

TEST(ParsePlan, ExplicitLists) {
  const SharingPlan plan = Parse(R"({
      "scores": [null, null, 1, [0, [1, 3], null, 2]],
      "keys":   [null, 0, null, [null, null, [2, 0], null]],
      "values": [0, [[0, 1], 0, 1, null], 2],
      "value_mix": [null, null, [0.5, 2], [null, [1, 3]]]})");
  EXPECT_EQ(plan.sources(2, 3).scores, (HeadRef{1, 3}));
  EXPECT_EQ(plan.sources(2, 3).keys, (HeadRef{0, 1})) << "what (1, 3) reads";
  EXPECT_EQ(plan.sources(3, 0).scores, (HeadRef{0, 0}));
  EXPECT_EQ(plan.sources(3, 1).scores, (HeadRef{1, 3}));
  EXPECT_EQ(plan.sources(3, 2).scores, (HeadRef{3, 2}));
  EXPECT_EQ(plan.sources(3, 2).keys, (HeadRef{2, 0}));
  EXPECT_EQ(plan.sources(3, 3).scores, (HeadRef{1, 3})) << "through (2, 3)";
  EXPECT_EQ(plan.sources(1, 0).values, (HeadRef{0, 1}));
  EXPECT_EQ(plan.sources(1, 1).values, (HeadRef{0, 0}));
  EXPECT_EQ(plan.sources(1, 2).values, (HeadRef{1, 1}));
  EXPECT_EQ(plan.mix(2, 0), (ValueMix{.own = 0.5F, .first = 2}));
  EXPECT_EQ(plan.mix(2, 1), (ValueMix{.own = 0.5F, .first = 2}));
  EXPECT_FALSE(plan.mix(3, 0).has_value());
  EXPECT_EQ(plan.mix(3, 1), (ValueMix{.own = 1, .first = 3}));
}

TEST(ParsePlan, ExplicitListsAfterAPresetChangeOnlyWhatTheyName) {
  const SharingPlan plan =
      Parse(R"([{"preset":"svformer"},{"values":[null,null,2]},{"keys":[null,null,null,1]}])");
  EXPECT_EQ(LayersOf(plan, kValues), (std::vector<int32_t>{0, 0, 2, 0, 0, 0, 0, 0}));
  EXPECT_EQ(LayersOf(plan, kKeys), (std::vector<int32_t>{0, 1, 2, 1, 4, 5, 6, 7}));
  const SharingPlan computes_again =
      Parse(R"([{"preset":"reuse","compute_layers":[0]},{"scores":[null,null,null,3]}])");
  EXPECT_EQ(LayersOf(computes_again, kScores), (std::vector<int32_t>{0, 0, 0, 3, 0, 0, 0, 0}));
  const SharingPlan fixed =
      Parse(R"([{"preset":"resformer","mix":"learnable"},{"value_mix":[null,null,[1,1]]}])");
  EXPECT_TRUE(fixed.learnable_mix(1));
  EXPECT_FALSE(fixed.learnable_mix(2));
}

TEST(ParsePlan, RefusesPresets) {
  for (const RefusalCase& refused : kPresetRefusals) {
    EXPECT_EQ(Refusal(json::parse(refused.text)), refused.message) << refused.text;
  }
}

TEST(ParsePlan, RefusesExplicitLists) {
  for (const RefusalCase& refused : kExplicitRefusals) {
    EXPECT_EQ(Refusal(json::parse(refused.text)), refused.message) << refused.text;
  }
}

TEST(ParsePlan, RefusesWhatJsonTextCannotSay) {
  const float not_a_number = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Refusal({{"preset", "resformer"}, {"mix", "constant"}, {"own", not_a_number}}),
            "cross_layer.own: expected a number from -3.40282e+38 to 3.40282e+38, got null");
  EXPECT_EQ(
      Refusal(json("\xff")),
      "cross_layer: expected an object with a preset or explicit lists, got \"\xEF\xBF\xBD\"");
  EXPECT_EQ(Refusal(json(json::value_t::discarded)),
            "cross_layer: expected an object with a preset or explicit lists, got <discarded>");
}

TEST(ParsePlan, RefusesWhatTheShapeDoesNotAllow) {
  const json skipv1 = {{"preset", "skipv1"}};
  EXPECT_EQ(Refusal(skipv1, {2, 6, 3, 8}),
            "cross_layer: skipv1 halves the kv heads (query head h reads kv head h * 3 / 6), and 3 "
            "can't be halved");
  EXPECT_EQ(Refusal({{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", 1}}, {2, 4, 4, 8}),
            "cross_layer.skip_layers: expected a distance to a non-adjacent layer, of which there "
            "is none, got 2");
  EXPECT_EQ(Refusal({{"preset", "resformer"}, {"layers", {1}}}, {1, 4, 4, 8}),
            "cross_layer.layers[0]: expected a layer, of which there is none, got 1");
  EXPECT_EQ(Refusal(json(), {0, 4, 4, 8}), "num_layers: 0 is out of range (1..1024)");
  EXPECT_EQ(*ParsePlan({{"preset", "resformer"}}, {1, 4, 4, 8}), SharingPlan::Plain({1, 4, 4, 8}));
}

TEST(ParsePlan, RandomExplicitPlansKeepTheirInvariants) {
  std::mt19937 random(5);
  const auto below = [&](int32_t limit) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(limit));
  };
  const auto entry = [&](int32_t layer, int32_t source_heads) {
    if (below(3) == 0) return json();
    if (below(2) == 0) return json(below(layer + 1));
    json heads = json::array();
    for (int32_t head = 0; head < kShape.num_query_heads; ++head) {
      heads.push_back(below(2) == 0 ? json()
                                    : json::array({below(layer + 1), below(source_heads)}));
    }
    return heads;
  };
  int made = 0;
  for (int round = 0; round < 300; ++round) {
    json cross_layer = {{"scores", json::array()}, {"values", json::array()}};
    for (int32_t layer = 0; layer < kShape.num_layers; ++layer) {
      cross_layer["scores"].push_back(entry(layer, kShape.num_query_heads));
      cross_layer["values"].push_back(entry(layer, kShape.num_kv_heads));
    }
    const absl::StatusOr<SharingPlan> plan = ParsePlan(cross_layer, kShape);
    if (!plan.ok()) {
      EXPECT_NE(plan.status().message().find("no owner"), absl::string_view::npos) << plan.status();
      continue;
    }
    ++made;
    ASSERT_EQ(PlanInvariants(*plan).Check(), "") << cross_layer;
  }
  EXPECT_GT(made, 50);
}

constexpr ProjectionsPresent kAll = {.query = true, .key = true, .value = true};
constexpr ProjectionsPresent kNoValue = {.query = true, .key = true};
constexpr ProjectionsPresent kOnlyValue = {.value = true};
constexpr ProjectionsPresent kOnlyQuery = {.query = true};
constexpr ProjectionsPresent kNone = {};

SharingPlan Detect(const std::vector<ProjectionsPresent>& layers) {
  absl::StatusOr<SharingPlan> plan = DetectPlan(layers, kShape);
  EXPECT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(PlanInvariants(*plan).Check(), "");
  return *std::move(plan);
}

TEST(DetectPlan, ReadsTheSchemesOffTheProjections) {
  EXPECT_EQ(Detect(std::vector<ProjectionsPresent>(8, kAll)), SharingPlan::Plain(kShape));
  std::vector<ProjectionsPresent> layers(8, kNoValue);
  layers[0] = kAll;
  EXPECT_EQ(Detect(layers), Parse(R"({"preset":"svformer"})"));
  layers[5] = kAll;
  EXPECT_EQ(Detect(layers), Parse(R"({"preset":"svformer","anchors":[0,5]})"));
  layers.assign(8, kOnlyValue);
  layers[0] = layers[4] = kAll;
  EXPECT_EQ(Detect(layers), Parse(R"({"preset":"reuse","compute_layers":[0,4]})"));
  layers.assign(8, kOnlyQuery);
  layers[0] = layers[2] = layers[4] = layers[6] = kAll;
  EXPECT_EQ(Detect(layers), Parse(R"({"preset":"cla","factor":2})"));
  layers.assign(8, kNone);
  layers[0] = kAll;
  layers[4] = kNoValue;
  EXPECT_EQ(Detect(layers),
            Parse(R"([{"preset":"svformer"},{"preset":"reuse","compute_layers":[0,4]}])"));
}

TEST(DetectPlan, TakesKeysAloneFromBelow) {
  std::vector<ProjectionsPresent> layers(8, kAll);
  layers[3].key = false;
  const SharingPlan plan = Detect(layers);
  EXPECT_EQ(plan.sources(3, 0).keys, (HeadRef{2, 0}));
  EXPECT_EQ(plan.sources(3, 0).values, (HeadRef{3, 0}));
}

TEST(DetectPlan, Refuses) {
  const auto refusal = [](const std::vector<ProjectionsPresent>& layers) {
    const absl::StatusOr<SharingPlan> plan = DetectPlan(layers, kShape);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(plan.status().message());
  };
  std::vector<ProjectionsPresent> layers(8, kAll);
  layers[0] = kNoValue;
  EXPECT_EQ(refusal(layers), "layer 0: no v_proj, and no layer below to take it from");
  layers[0] = {.query = true, .value = true};
  EXPECT_EQ(refusal(layers), "layer 0: no k_proj, and no layer below to take it from");
  layers[0] = {.key = true, .value = true};
  EXPECT_EQ(refusal(layers), "layer 0: no q_proj, and no layer below to take it from");
  layers[0] = kAll;
  layers[6].query = false;
  EXPECT_EQ(refusal(layers), "layer 6: a k_proj but no q_proj");
  EXPECT_EQ(refusal({kAll}), "projections of 1 layers, but the model has 8");
}

TEST(NamedPlan, AreThePresets) {
  constexpr AttentionShape kTwelve = {
      .num_layers = 12, .num_query_heads = 12, .num_kv_heads = 12, .head_dim = 64};
  for (const char* name : {"plain", "svformer", "resformer", "reuse", "svformer-reuse", "sla",
                           "cla", "skipv1", "fusedkv-lite"}) {
    for (const AttentionShape& shape : {kShape, kTwelve}) {
      const absl::StatusOr<SharingPlan> plan = NamedPlan(name, shape);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_EQ(PlanInvariants(*plan).Check(), "");
      EXPECT_EQ(*plan == SharingPlan::Plain(shape), std::string(name) == "plain") << name;
    }
  }
  EXPECT_EQ(*NamedPlan("sla", kTwelve),
            Parse(R"({"preset":"sla","skip_layers":9,"skip_heads":9})", kTwelve));
  const char* const reuse = R"({"preset":"reuse","compute_layers":[0,4,8]})";
  EXPECT_EQ(*NamedPlan("reuse", kTwelve), Parse(reuse, kTwelve));
  EXPECT_EQ(*NamedPlan("svformer-reuse", kTwelve),
            Parse(std::string(R"([{"preset":"svformer"},)") + reuse + "]", kTwelve));
  for (const char* preset : {"svformer", "resformer", "skipv1"}) {
    EXPECT_EQ(*NamedPlan(preset, kTwelve), Parse(json{{"preset", preset}}.dump(), kTwelve));
  }
  EXPECT_EQ(*NamedPlan("cla", kTwelve), Parse(R"({"preset":"cla","factor":2})", kTwelve));
  EXPECT_EQ(*NamedPlan("fusedkv-lite", kTwelve),
            Parse(R"({"preset":"fusedkv-lite","layer":5})", kTwelve));
  EXPECT_EQ(NamedPlan("svformer2", kShape).status().message(),
            "\"svformer2\" is not a named plan (plain, svformer, resformer, reuse, svformer-reuse, "
            "sla, cla, skipv1, fusedkv-lite)");
  EXPECT_FALSE(NamedPlan("plain", {}).ok());
}

}  // namespace
}  // namespace strata::kvcache::plan_parser_test
