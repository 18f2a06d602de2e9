#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/status_macros.h"
#include "kvcache/plan/plan_draft.h"
#include "kvcache/plan/plan_json.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache {
namespace {

using nlohmann::json;

absl::Status ApplyPlain(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset"}));
  draft = PlanDraft::Plain(draft.shape);
  return absl::OkStatus();
}

// Value Residual Learning, arXiv 2410.17897: values of the latest anchor at or below the layer.
absl::Status ApplySvformer(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "anchors"}));
  std::vector<int32_t> anchors = {0};
  if (const json* given = FindMember(object, "anchors")) {
    const std::string field = Member(path, "anchors");
    ASSIGN_OR_RETURN(std::vector<int32_t> layers,
                     ReadLayers(*given, field, 0, draft.shape.num_layers));
    if (layers.empty() || layers.front() != 0) {
      return RefuseAt(field, "the first anchor must be layer 0");
    }
    anchors = std::move(layers);
  }
  for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
    const int32_t anchor = *(std::upper_bound(anchors.begin(), anchors.end(), layer) - 1);
    for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
      draft.at(layer, head).values = draft.PlaneIn(anchor, head);
    }
  }
  return absl::OkStatus();
}

struct MixSpec {
  ValueMix mix;
  bool learnable = false;
};

absl::StatusOr<MixSpec> ReadMix(const json& object, absl::string_view path) {
  MixSpec spec = {.mix = {.own = 0.5F, .first = 0.5F}};
  std::string name = "identity";
  if (const json* given = FindMember(object, "mix")) {
    const auto* text = given->get_ptr<const json::string_t*>();
    if (text == nullptr || (*text != "identity" && *text != "constant" && *text != "learnable")) {
      return RefuseAt(Member(path, "mix"), Shown(*given),
                      " is not \"identity\", \"constant\" or \"learnable\"");
    }
    name = *text;
  }
  spec.learnable = name == "learnable";
  if (name == "constant") spec.mix = {.own = 1, .first = 2};
  for (const auto& [key, weight] :
       {std::pair("own", &spec.mix.own), std::pair("first", &spec.mix.first)}) {
    const json* given = FindMember(object, key);
    if (given == nullptr) continue;
    const std::string field = Member(path, key);
    if (name != "constant")
      return RefuseAt(field, "goes with mix \"constant\", not \"", name, "\"");
    ASSIGN_OR_RETURN(float value, ReadFloat(*given, field));
    *weight = value;
  }
  return spec;
}

// The same paper: layer 0's values are mixed into the written values of the layers above.
absl::Status ApplyResformer(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "mix", "own", "first", "layers"}));
  ASSIGN_OR_RETURN(MixSpec spec, ReadMix(object, path));
  std::vector<int32_t> layers(static_cast<size_t>(draft.shape.num_layers - 1));
  std::iota(layers.begin(), layers.end(), 1);
  if (const json* given = FindMember(object, "layers")) {
    ASSIGN_OR_RETURN(std::vector<int32_t> some,
                     ReadLayers(*given, Member(path, "layers"), 1, draft.shape.num_layers));
    layers = std::move(some);
  }
  for (int32_t layer : layers) {
    auto& heads = draft.mixes[static_cast<size_t>(layer)];
    std::fill(heads.begin(), heads.end(), spec.mix);
    draft.learnable_mix[static_cast<size_t>(layer)] = spec.learnable;
  }
  return absl::OkStatus();
}

// Reuse Transformer, arXiv 2110.06821. Every layer hands a list of heads to the next: first the
// heads it computed, then the heads it reused.
absl::Status ApplyReuse(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "compute_layers", "heads"}));
  const int32_t num_heads = draft.shape.num_query_heads;
  const std::string field = Member(path, "compute_layers");
  const json* given = FindMember(object, "compute_layers");
  if (given == nullptr) return RefuseAt(field, "missing");
  ASSIGN_OR_RETURN(std::vector<int32_t> compute,
                   ReadLayers(*given, field, 0, draft.shape.num_layers));
  if (compute.empty() || compute.front() != 0) {
    return RefuseAt(field, "the first must be layer 0, it has no layer below to reuse");
  }
  int32_t reused = num_heads;
  if (const json* heads = FindMember(object, "heads")) {
    ASSIGN_OR_RETURN(int32_t count, ReadInt(*heads, Member(path, "heads"),
                                            "a number of query heads", 0, num_heads));
    reused = count;
  }
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
  return absl::OkStatus();
}

// Skip-Layer Attention, arXiv 2406.11274: the last heads read K and V of a layer further below.
absl::Status ApplySla(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "skip_layers", "skip_heads"}));
  const AttentionShape& shape = draft.shape;
  ASSIGN_OR_RETURN(int32_t skip,
                   ReadIntMember(object, path, "skip_layers", "a distance to a non-adjacent layer",
                                 2, shape.num_layers - 1));
  ASSIGN_OR_RETURN(int32_t heads,
                   ReadIntMember(object, path, "skip_heads", "a number of query heads", 1,
                                 shape.num_query_heads));
  const int32_t group = shape.num_query_heads / shape.num_kv_heads;
  if (heads % group != 0) {
    return RefuseAt(Member(path, "skip_heads"), heads, " is not a multiple of ", group,
                    ", the query heads that share a kv head");
  }
  for (int32_t layer = skip; layer < shape.num_layers; ++layer) {
    for (int32_t head = shape.num_query_heads - heads; head < shape.num_query_heads; ++head) {
      HeadSources& from = draft.at(layer, head);
      from.keys = from.values = draft.PlaneIn(layer - skip, head);
    }
  }
  return absl::OkStatus();
}

// Makes `layer` read the keys and values of `source`.
void ShareKeysAndValues(PlanDraft& draft, int32_t layer, int32_t source) {
  for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
    HeadSources& from = draft.at(layer, head);
    from.keys = from.values = draft.PlaneIn(source, head);
  }
}

// Cross-Layer Attention, arXiv 2405.12981.
absl::Status ApplyCla(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "factor"}));
  ASSIGN_OR_RETURN(int32_t factor, ReadIntMember(object, path, "factor", "a number of layers", 1,
                                                 draft.shape.num_layers));
  for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
    ShareKeysAndValues(draft, layer, layer - layer % factor);
  }
  return absl::OkStatus();
}

absl::Status ApplyKvGroups(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "groups"}));
  const std::string field = Member(path, "groups");
  const json* groups = FindMember(object, "groups");
  if (groups == nullptr) return RefuseAt(field, "missing");
  if (!groups->is_array()) return RefuseAt(field, Shown(*groups), " is not a list of groups");
  std::vector<bool> taken(static_cast<size_t>(draft.shape.num_layers));
  for (size_t i = 0; i < groups->size(); ++i) {
    const std::string element = Element(field, i);
    ASSIGN_OR_RETURN(std::vector<int32_t> group,
                     ReadLayers((*groups)[i], element, 0, draft.shape.num_layers));
    if (group.empty()) return RefuseAt(element, "a group needs a layer");
    for (int32_t layer : group) {
      if (taken[static_cast<size_t>(layer)]) {
        return RefuseAt(element, "layer ", layer, " is in another group already");
      }
      taken[static_cast<size_t>(layer)] = true;
      ShareKeysAndValues(draft, layer, group.front());
    }
  }
  return absl::OkStatus();
}

// The upper half of the kv heads reads layer 0's values.
absl::Status ApplySkipV1(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset"}));
  const AttentionShape& shape = draft.shape;
  if (shape.num_kv_heads % 2 != 0) {
    return RefuseAt(path, "skipv1 halves the kv heads (query head h reads kv head h * ",
                    shape.num_kv_heads, " / ", shape.num_query_heads, "), and ", shape.num_kv_heads,
                    " can't be halved");
  }
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      const bool own = shape.KvHeadOf(head) < shape.num_kv_heads / 2;
      draft.at(layer, head).values = draft.PlaneIn(own ? layer : 0, head);
    }
  }
  return absl::OkStatus();
}

absl::Status ApplyFusedKvLite(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"preset", "layer"}));
  ASSIGN_OR_RETURN(int32_t last_own,
                   ReadIntMember(object, path, "layer", "a layer", 0, draft.shape.num_layers - 1));
  for (int32_t layer = last_own + 1; layer < draft.shape.num_layers; ++layer) {
    for (int32_t head = 0; head < draft.shape.num_query_heads; ++head) {
      draft.at(layer, head).keys = draft.PlaneIn(last_own, head);
      draft.at(layer, head).values = draft.PlaneIn(0, head);
    }
  }
  return absl::OkStatus();
}

struct Preset {
  const char* name;
  absl::Status (*apply)(const json& object, absl::string_view path, PlanDraft& draft);
};

constexpr auto kPresets = std::to_array<Preset>({
    {"plain", ApplyPlain},
    {"svformer", ApplySvformer},
    {"resformer", ApplyResformer},
    {"reuse", ApplyReuse},
    {"sla", ApplySla},
    {"cla", ApplyCla},
    {"kv-groups", ApplyKvGroups},
    {"skipv1", ApplySkipV1},
    {"fusedkv-lite", ApplyFusedKvLite},
});

}  // namespace

absl::Status ApplyPreset(const json& object, absl::string_view path, PlanDraft& draft) {
  const json* given = FindMember(object, "preset");
  const auto* name = given == nullptr ? nullptr : given->get_ptr<const json::string_t*>();
  if (name != nullptr) {
    for (const Preset& preset : kPresets) {
      if (*name == preset.name) return preset.apply(object, path, draft);
    }
  }
  std::string known;
  for (const Preset& preset : kPresets) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", preset.name);
  }
  return RefuseAt(Member(path, "preset"), given == nullptr ? "nothing" : Shown(*given),
                  " is not one of ", known);
}

}  // namespace strata::kvcache
