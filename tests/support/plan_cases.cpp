#include "tests/support/plan_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace strata::testing {
namespace {

using nlohmann::json;

// NaivePlain() after some presets.
template <typename... Presets>
NaiveArchitecture With(const Presets&... presets) {
  NaiveArchitecture architecture = NaivePlain();
  (presets(architecture), ...);
  return architecture;
}

std::vector<int> LayersAbove(int first, int end) {
  std::vector<int> layers;
  for (int l = first; l < end; ++l) layers.push_back(l);
  return layers;
}

}  // namespace

std::vector<PlanCase> PresetCases(const kvcache::AttentionShape& shape) {
  const int layers = shape.num_layers;
  const int heads = shape.num_query_heads;
  const int group = heads / shape.num_kv_heads;
  const int skip_heads = group == 1 ? heads - 1 : group;
  using A = NaiveArchitecture;
  const auto svformer = [](A& a) { NaiveSvFormer(a, {0}); };
  const auto reuse = [heads](A& a) { NaiveReuse(a, {0, 4}, heads); };
  const auto resformer = [layers](A& a) { NaiveResFormer(a, 0.5, 0.5, LayersAbove(1, layers)); };
  const json svformer_json = {{"preset", "svformer"}};
  const json reuse_json = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  const json resformer_json = {{"preset", "resformer"}};

  std::vector<PlanCase> cases;
  const auto add = [&cases](std::string name, json cross_layer, NaiveArchitecture naive) {
    cases.push_back({std::move(name), std::move(cross_layer), std::move(naive)});
  };
  add("plain", {{"preset", "plain"}}, NaivePlain());
  add("svformer", svformer_json, With(svformer));
  add("svformer-anchors", {{"preset", "svformer"}, {"anchors", {0, 2, 5}}}, With([](A& a) {
        NaiveSvFormer(a, {0, 2, 5});
      }));
  add("resformer-identity", resformer_json, With(resformer));
  add("resformer-constant", {{"preset", "resformer"}, {"mix", "constant"}},
      With([&](A& a) { NaiveResFormer(a, 1, 2, LayersAbove(1, layers)); }));
  add("resformer-sparse",
      {{"preset", "resformer"},
       {"mix", "constant"},
       {"own", 0.25},
       {"first", -1.5},
       {"layers", {4, 5}}},
      With([](A& a) {
        NaiveResFormer(a, 0.25, -1.5, {4, 5});
      }));
  add("resformer-learnable", {{"preset", "resformer"}, {"mix", "learnable"}},
      With([&](A& a) { NaiveLearnableResFormer(a, LayersAbove(1, layers)); }));
  add("reuse", reuse_json, With(reuse));
  add("reuse-partial", {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 1}},
      With([](A& a) { NaiveReuse(a, {0}, 1); }));
  add("reuse-partial-3", {{"preset", "reuse"}, {"compute_layers", {0, 3}}, {"heads", 3}},
      With([](A& a) {
        NaiveReuse(a, {0, 3}, 3);
      }));
  add("sla-2", {{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", skip_heads}},
      With([&](A& a) { NaiveSla(a, 2, skip_heads); }));
  add("sla-all-heads", {{"preset", "sla"}, {"skip_layers", 3}, {"skip_heads", heads}},
      With([&](A& a) { NaiveSla(a, 3, heads); }));
  add("cla-2", {{"preset", "cla"}, {"factor", 2}}, With([](A& a) { NaiveCla(a, 2); }));
  add("cla-4", {{"preset", "cla"}, {"factor", 4}}, With([](A& a) { NaiveCla(a, 4); }));
  add("kv-groups", {{"preset", "kv-groups"}, {"groups", {{0, 3}, {1, 2, 5}}}}, With([](A& a) {
        NaiveKvGroups(a, {{0, 3}, {1, 2, 5}});
      }));
  if (shape.num_kv_heads % 2 == 0) {
    add("skipv1", {{"preset", "skipv1"}}, With([](A& a) { NaiveSkipV1(a); }));
    add("skipv1-reuse", {{{"preset", "skipv1"}}, reuse_json},
        With([](A& a) { NaiveSkipV1(a); }, reuse));
  }
  add("fusedkv-lite", {{"preset", "fusedkv-lite"}, {"layer", 2}},
      With([](A& a) { NaiveFusedKvLite(a, 2); }));
  add("svformer-reuse", {svformer_json, reuse_json}, With(svformer, reuse));
  add("reuse-svformer", {reuse_json, svformer_json}, With(reuse, svformer));
  add("svformer-anchors-reuse-partial",
      {{{"preset", "svformer"}, {"anchors", {0, 3}}},
       {{"preset", "reuse"}, {"compute_layers", {0, 2}}, {"heads", 2}}},
      With(
          [](A& a) {
            NaiveSvFormer(a, {0, 3});
          },
          [](A& a) {
            NaiveReuse(a, {0, 2}, 2);
          }));
  add("resformer-reuse", {resformer_json, reuse_json}, With(resformer, reuse));
  add("resformer-cla", {resformer_json, {{"preset", "cla"}, {"factor", 2}}},
      With(resformer, [](A& a) { NaiveCla(a, 2); }));
  add("cla-reuse", {{{"preset", "cla"}, {"factor", 3}}, reuse_json},
      With([](A& a) { NaiveCla(a, 3); }, reuse));
  return cases;
}

NaiveTensors FullTensors(const TinyModelOptions& options) {
  TinyModelOptions full = options;
  full.trim = false;
  NaiveTensors tensors;
  for (const NamedTensor& tensor : MakeTinyModel(full).tensors) {
    tensors[tensor.name] = {.shape = tensor.shape,
                            .data = std::vector<double>(tensor.data.begin(), tensor.data.end())};
  }
  return tensors;
}

double RelativeDeviation(const std::vector<float>& engine, const double* oracle) {
  double deviation = 0;
  double largest = 0;
  for (size_t i = 0; i < engine.size(); ++i) {
    if (!std::isfinite(engine[i])) return std::numeric_limits<double>::infinity();
    deviation = std::max(deviation, std::fabs(engine[i] - oracle[i]));
    largest = std::max(largest, std::fabs(oracle[i]));
  }
  return deviation / largest;
}

}  // namespace strata::testing
