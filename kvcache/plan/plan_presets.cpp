#include "kvcache/plan/plan_presets.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcache/base/errors.h"
#include "kvcache/plan/plan_draft.h"

namespace strata::kvcache {
namespace {

// Value Residual Learning, arXiv 2410.17897: values of the latest anchor at or below the layer.
void Svformer(PlanDraft& draft, const LayerGroup& anchors = {0}) {
  for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
    const int32_t anchor = *(std::upper_bound(anchors.begin(), anchors.end(), layer) - 1);
    for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
      draft.at(layer, head).values = draft.PlaneIn(anchor, head);
    }
  }
}

struct MixSpec {
  ValueMix mix = {.own = 0.5F, .first = 0.5F};
  bool learnable = false;
};

// The same paper: layer 0's values are mixed into the written values of the layers above.
void Resformer(PlanDraft& draft, const MixSpec& spec, const LayerGroup& layers) {
  for (const int32_t layer : layers) {
    auto& heads = draft.mixes[static_cast<size_t>(layer)];
    std::fill(heads.begin(), heads.end(), spec.mix);
    draft.learnable_mix[static_cast<size_t>(layer)] = spec.learnable;
  }
}

LayerGroup LayersFrom(int32_t first, int32_t end) {
  LayerGroup layers(static_cast<size_t>(end - first));
  std::iota(layers.begin(), layers.end(), first);
  return layers;
}

// Reuse Transformer, arXiv 2110.06821. Every layer hands a list of heads to the next: first the
// heads it computed, then the heads it reused. Layers outside `compute` reuse `reused` heads.
void Reuse(PlanDraft& draft, const LayerGroup& compute, int32_t reused) {
  const int32_t num_heads = draft.shape.num_query_heads;
  std::vector<HeadRef> handed_on;
  for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
    const bool computes = std::binary_search(compute.begin(), compute.end(), layer);
    const int32_t first_own = computes ? 0 : reused;
    std::vector<HeadRef> list;
    for (int32_t head = first_own; head < num_heads; ++head) {
      draft.at(layer, head).scores = {layer, head};
      list.push_back({layer, head});
    }
    for (int32_t head = 0; head < first_own; ++head) {
      const HeadRef source = handed_on[static_cast<size_t>(head)];
      draft.at(layer, head).scores = source;
      list.push_back(source);
    }
    handed_on = std::move(list);
  }
}

// Skip-Layer Attention, arXiv 2406.11274: the last heads read K and V of a layer further below.
void Sla(PlanDraft& draft, int32_t skip_layers, int32_t skip_heads) {
  const AttentionShape& shape = draft.shape;
  for (int32_t layer = skip_layers; layer < shape.num_layers; ++layer) {
    for (int32_t head = shape.num_query_heads - skip_heads; head < shape.num_query_heads; ++head) {
      HeadSources& from = draft.at(layer, head);
      from.keys = from.values = draft.PlaneIn(layer - skip_layers, head);
    }
  }
}

// Makes `layer` read the keys and values of `source`.
void ShareKeysAndValues(PlanDraft& draft, int32_t layer, int32_t source) {
  for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
    HeadSources& from = draft.at(layer, head);
    from.keys = from.values = draft.PlaneIn(source, head);
  }
}

// Cross-Layer Attention, arXiv 2405.12981.
void Cla(PlanDraft& draft, int32_t factor) {
  for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
    ShareKeysAndValues(draft, layer, layer - layer % factor);
  }
}

// The upper half of the kv heads reads layer 0's values. REQUIRES: an even number of kv heads.
void SkipV1(PlanDraft& draft) {
  const AttentionShape& shape = draft.shape;
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      const bool own = shape.KvHeadOf(head) < shape.num_kv_heads / 2;
      draft.at(layer, head).values = draft.PlaneIn(own ? layer : 0, head);
    }
  }
}

void FusedKvLite(PlanDraft& draft, int32_t last_own) {
  for (int32_t layer = last_own + 1; layer < draft.shape.num_layers; ++layer) {
    for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
      draft.at(layer, head).keys = draft.PlaneIn(last_own, head);
      draft.at(layer, head).values = draft.PlaneIn(0, head);
    }
  }
}

void KvGroups(PlanDraft& draft, const std::vector<LayerGroup>& groups) {
  for (const LayerGroup& group : groups) {
    for (const int32_t layer : group) ShareKeysAndValues(draft, layer, group.front());
  }
}

absl::Status CheckHalves(const AttentionShape& shape) {
  if (shape.num_kv_heads % 2 == 0) return absl::OkStatus();
  return InvalidArgument("skipv1 halves the kv heads (query head h reads kv head h * ",
                         shape.num_kv_heads, " / ", shape.num_query_heads, "), and ",
                         shape.num_kv_heads, " can't be halved");
}

// Layers from `first` to the last, ascending.
LayerGroup ReadLayers(JsonReader& owner, std::string_view field, int32_t first,
                      int32_t num_layers) {
  LayerGroup layers;
  for (JsonReader& element : owner.Elements(field, "a list of layers")) {
    const auto layer = static_cast<int32_t>(element.Integer("", first, num_layers - 1, "a layer"));
    if (!layers.empty() && layer <= layers.back()) {
      element.Fail("", layer, " after ", layers.back(), ", layers must ascend");
    }
    layers.push_back(layer);
  }
  return layers;
}

// Each of these reads the fields of a preset, and changes the draft unless they were wrong.

void ReadPlain(JsonReader& /*object*/, PlanDraft& draft) { draft = PlanDraft::Plain(draft.shape); }

void ReadSvformer(JsonReader& object, PlanDraft& draft) {
  LayerGroup anchors = {0};
  if (object.Has("anchors")) anchors = ReadLayers(object, "anchors", 0, draft.shape.num_layers);
  if (anchors.empty() || anchors.front() != 0) {
    object.Fail("anchors", "the first anchor must be layer 0");
  }
  if (object.ok()) Svformer(draft, anchors);
}

MixSpec ReadMix(JsonReader& object) {
  MixSpec spec;
  const std::string name = object.String("mix", "identity");
  if (name != "identity" && name != "constant" && name != "learnable") {
    object.FailExpected("mix", R"("identity", "constant" or "learnable")");
  }
  spec.learnable = name == "learnable";
  if (name == "constant") spec.mix = {.own = 1, .first = 2};
  for (const auto& [field, weight] :
       {std::pair("own", &spec.mix.own), std::pair("first", &spec.mix.first)}) {
    if (!object.Has(field)) continue;
    if (name != "constant") object.Fail(field, "goes with mix \"constant\", not \"", name, "\"");
    *weight = ReadFinite(object, field);
  }
  return spec;
}

void ReadResformer(JsonReader& object, PlanDraft& draft) {
  const int32_t num_layers = draft.shape.num_layers;
  const MixSpec spec = ReadMix(object);
  const LayerGroup layers = object.Has("layers") ? ReadLayers(object, "layers", 1, num_layers)
                                                 : LayersFrom(1, num_layers);
  if (object.ok()) Resformer(draft, spec, layers);
}

void ReadReuse(JsonReader& object, PlanDraft& draft) {
  const int32_t num_heads = draft.shape.num_query_heads;
  const LayerGroup compute = ReadLayers(object, "compute_layers", 0, draft.shape.num_layers);
  if (compute.empty() || compute.front() != 0) {
    object.Fail("compute_layers", "the first must be layer 0, it has no layer below to reuse");
  }
  int64_t reused = num_heads;
  if (object.Has("heads")) {
    reused = object.Integer("heads", 0, num_heads, "a number of query heads");
  }
  if (object.ok()) Reuse(draft, compute, static_cast<int32_t>(reused));
}

void ReadSla(JsonReader& object, PlanDraft& draft) {
  const AttentionShape& shape = draft.shape;
  const int64_t layers =
      object.Integer("skip_layers", 2, shape.num_layers - 1, "a distance to a non-adjacent layer");
  const int64_t heads =
      object.Integer("skip_heads", 1, shape.num_query_heads, "a number of query heads");
  const int32_t group = shape.num_query_heads / shape.num_kv_heads;
  if (heads % group != 0) {
    object.Fail("skip_heads", heads, " is not a multiple of ", group,
                ", the query heads that share a kv head");
  }
  if (object.ok()) Sla(draft, static_cast<int32_t>(layers), static_cast<int32_t>(heads));
}

void ReadCla(JsonReader& object, PlanDraft& draft) {
  const int64_t factor = object.Integer("factor", 1, draft.shape.num_layers, "a number of layers");
  Cla(draft, static_cast<int32_t>(factor));
}

void ReadGroups(JsonReader& object, PlanDraft& draft) {
  const std::vector<LayerGroup> groups = ReadKvGroups(object, "groups", draft.shape.num_layers);
  if (object.ok()) KvGroups(draft, groups);
}

void ReadSkipV1(JsonReader& object, PlanDraft& draft) {
  const absl::Status halves = CheckHalves(draft.shape);
  if (!halves.ok()) object.Fail("", halves.message());
  SkipV1(draft);
}

void ReadFusedKvLite(JsonReader& object, PlanDraft& draft) {
  const int64_t layer = object.Integer("layer", 0, draft.shape.num_layers - 1, "a layer");
  FusedKvLite(draft, static_cast<int32_t>(layer));
}

struct Preset {
  std::string_view name;
  std::vector<std::string_view> fields;
  void (*read)(JsonReader& object, PlanDraft& draft);
};

const std::vector<Preset>& Presets() {
  static const std::vector<Preset> presets = {
      {"plain", {"preset"}, ReadPlain},
      {"svformer", {"preset", "anchors"}, ReadSvformer},
      {"resformer", {"preset", "mix", "own", "first", "layers"}, ReadResformer},
      {"reuse", {"preset", "compute_layers", "heads"}, ReadReuse},
      {"sla", {"preset", "skip_layers", "skip_heads"}, ReadSla},
      {"cla", {"preset", "factor"}, ReadCla},
      {"kv-groups", {"preset", "groups"}, ReadGroups},
      {"skipv1", {"preset"}, ReadSkipV1},
      {"fusedkv-lite", {"preset", "layer"}, ReadFusedKvLite},
  };
  return presets;
}

}  // namespace

std::vector<LayerGroup> ReadKvGroups(JsonReader& owner, std::string_view field,
                                     int32_t num_layers) {
  std::vector<LayerGroup> groups;
  std::vector<bool> taken(static_cast<size_t>(num_layers));
  for (JsonReader& element : owner.Elements(field, "a list of groups of layers")) {
    groups.push_back(ReadLayers(element, "", 0, num_layers));
    if (groups.back().empty()) element.Fail("", "a group needs a layer");
    for (const int32_t layer : groups.back()) {
      if (taken[static_cast<size_t>(layer)]) {
        element.Fail("", "layer ", layer, " is in another group already");
      }
      taken[static_cast<size_t>(layer)] = true;
    }
  }
  return groups;
}

void ReadPreset(JsonReader& object, PlanDraft& draft) {
  const std::string name = object.String("preset");
  std::string known;
  for (const Preset& preset : Presets()) {
    if (name == preset.name) {
      object.RefuseOthers(preset.fields);
      return preset.read(object, draft);
    }
    known += (known.empty() ? "" : ", ") + std::string(preset.name);
  }
  object.FailExpected("preset", "one of ", known);
}

SharingPlan ClaPlan(const AttentionShape& shape, int32_t factor) {
  PlanDraft draft = PlanDraft::Plain(shape);
  Cla(draft, factor);
  return *std::move(draft).Finish();
}

SharingPlan KvGroupsPlan(const AttentionShape& shape, const std::vector<LayerGroup>& groups) {
  PlanDraft draft = PlanDraft::Plain(shape);
  KvGroups(draft, groups);
  return *std::move(draft).Finish();
}

absl::StatusOr<SharingPlan> NamedPlan(std::string_view name, const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckShape(shape));
  PlanDraft draft = PlanDraft::Plain(shape);
  const int32_t num_layers = shape.num_layers;
  if (name == "svformer" || name == "svformer-reuse") Svformer(draft);
  if (name == "reuse" || name == "svformer-reuse") {
    LayerGroup compute;
    for (int32_t layer = 0; layer < num_layers; layer += 4) compute.push_back(layer);
    Reuse(draft, compute, shape.num_query_heads);
  } else if (name == "resformer") {
    Resformer(draft, {}, LayersFrom(1, num_layers));
  } else if (name == "sla") {
    // Three quarters of the layers and of the heads: the best reported, 9 and 9 of 12 and 12.
    const int32_t group = shape.num_query_heads / shape.num_kv_heads;
    Sla(draft, std::max(2, num_layers * 3 / 4), std::max(1, shape.num_kv_heads * 3 / 4) * group);
  } else if (name == "cla") {
    Cla(draft, 2);
  } else if (name == "skipv1") {
    RETURN_IF_ERROR(CheckHalves(shape));
    SkipV1(draft);
  } else if (name == "fusedkv-lite") {
    FusedKvLite(draft, (num_layers - 1) / 2);
  } else if (name != "plain" && name != "svformer") {
    return InvalidArgument(
        DescribeJson(std::string(name)),
        " is not a named plan (plain, svformer, resformer, reuse, svformer-reuse, sla, cla, "
        "skipv1, fusedkv-lite)");
  }
  return std::move(draft).Finish();
}

}  // namespace strata::kvcache
