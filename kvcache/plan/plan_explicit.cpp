#include <string>
#include <utility>

#include "kernels/status_macros.h"
#include "kvcache/plan/plan_draft.h"
#include "kvcache/plan/plan_json.h"
#include "nlohmann/json.hpp"

namespace strata::kvcache {
namespace {

using nlohmann::json;

// The source of a head that a list names.
struct Field {
  const char* name;
  HeadRef HeadSources::*source;
  bool names_kv_heads;
};

constexpr Field kScores = {"scores", &HeadSources::scores, false};
constexpr Field kKeys = {"keys", &HeadSources::keys, true};
constexpr Field kValues = {"values", &HeadSources::values, true};

// The list `name` of `object`, null when absent or null: at most one entry a layer.
absl::StatusOr<const json*> FindLayerList(const json& object, absl::string_view path,
                                          absl::string_view name, int32_t num_layers) {
  const json* list = FindMember(object, name);
  if (list == nullptr || list->is_null()) return nullptr;
  if (!list->is_array()) {
    return RefuseAt(Member(path, name), Shown(*list), " is not a list with an entry a layer");
  }
  if (list->size() > static_cast<size_t>(num_layers)) {
    return RefuseAt(Member(path, name), list->size(), " entries, but the model has ", num_layers,
                    " layers");
  }
  return list;
}

absl::StatusOr<int32_t> ReadSourceLayer(const json& value, absl::string_view path, HeadRef reader) {
  absl::StatusOr<int32_t> layer =
      ReadInt(value, path, absl::StrCat("a layer at or below its reader, layer ", reader.layer), 0,
              reader.layer);
  return layer;
}

// One head's entry: null keeps the source; otherwise a layer, or [layer, head].
absl::Status ApplyHeadEntry(const json& entry, absl::string_view path, const Field& field,
                            HeadRef reader, PlanDraft& draft) {
  if (entry.is_null()) return absl::OkStatus();
  HeadSources& from = draft.at(reader.layer, reader.head);
  if (&field == &kKeys && from.scores != reader) {
    return RefuseAt(path, "layer ", reader.layer, " head ", reader.head,
                    " applies scores of layer ", from.scores.layer, " head ", from.scores.head,
                    ", so it has no keys to name");
  }
  const int32_t same_head = field.names_kv_heads ? draft.shape.KvHeadOf(reader.head) : reader.head;
  if (!entry.is_array()) {
    ASSIGN_OR_RETURN(int32_t layer, ReadSourceLayer(entry, path, reader));
    from.*field.source = {layer, same_head};
    return absl::OkStatus();
  }
  if (entry.size() != 2) {
    return RefuseAt(path, "a list of ", entry.size(), " is not [layer, head]");
  }
  ASSIGN_OR_RETURN(int32_t layer, ReadSourceLayer(entry[0], Element(path, 0), reader));
  const int32_t heads =
      field.names_kv_heads ? draft.shape.num_kv_heads : draft.shape.num_query_heads;
  ASSIGN_OR_RETURN(int32_t head,
                   ReadInt(entry[1], Element(path, 1),
                           field.names_kv_heads ? "a kv head" : "a query head", 0, heads - 1));
  from.*field.source = {layer, head};
  return absl::OkStatus();
}

absl::Status ApplySourceList(const json& object, absl::string_view path, const Field& field,
                             PlanDraft& draft) {
  ASSIGN_OR_RETURN(const json* list,
                   FindLayerList(object, path, field.name, draft.shape.num_layers));
  if (list == nullptr) return absl::OkStatus();
  const auto num_heads = static_cast<size_t>(draft.shape.num_query_heads);
  for (size_t layer = 0; layer < list->size(); ++layer) {
    const json& entry = (*list)[layer];
    const std::string layer_path = Element(Member(path, field.name), layer);
    if (entry.is_array() && entry.size() != num_heads) {
      return RefuseAt(layer_path, "a list of ", entry.size(), " is not one entry for each of ",
                      num_heads, " query heads");
    }
    for (size_t head = 0; head < num_heads; ++head) {
      const HeadRef reader = {static_cast<int32_t>(layer), static_cast<int32_t>(head)};
      RETURN_IF_ERROR(entry.is_array() ? ApplyHeadEntry(entry[head], Element(layer_path, head),
                                                        field, reader, draft)
                                       : ApplyHeadEntry(entry, layer_path, field, reader, draft));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ValueMix> ReadPair(const json& pair, absl::string_view path) {
  if (!pair.is_array() || pair.size() != 2) {
    return RefuseAt(path, pair.is_array() ? absl::StrCat("a list of ", pair.size()) : Shown(pair),
                    " is not [own, first]");
  }
  ASSIGN_OR_RETURN(float own, ReadFloat(pair[0], Element(path, 0)));
  ASSIGN_OR_RETURN(float first, ReadFloat(pair[1], Element(path, 1)));
  return ValueMix{.own = own, .first = first};
}

// One layer's entry: [own, first] for all kv heads, or a list of such pairs and nulls, one a kv
// head.
absl::Status ApplyMixEntry(const json& entry, absl::string_view path, int32_t layer,
                           PlanDraft& draft) {
  if (entry.is_null()) return absl::OkStatus();
  if (layer == 0) return RefuseAt(path, "layer 0 has no values below it to mix");
  auto& heads = draft.mixes[static_cast<size_t>(layer)];
  const bool a_head_each = entry.is_array() && (entry.empty() || !entry[0].is_number());
  if (a_head_each && entry.size() != heads.size()) {
    return RefuseAt(path, "a list of ", entry.size(), " is not one entry for each of ",
                    heads.size(), " kv heads");
  }
  for (size_t head = 0; head < heads.size(); ++head) {
    if (a_head_each && entry[head].is_null()) {
      if (!draft.learnable_mix[static_cast<size_t>(layer)]) continue;
      return RefuseAt(path, "layer ", layer, " has a learnable mix: name every kv head or none");
    }
    ASSIGN_OR_RETURN(ValueMix mix, a_head_each ? ReadPair(entry[head], Element(path, head))
                                               : ReadPair(entry, path));
    heads[head] = mix;
  }
  draft.learnable_mix[static_cast<size_t>(layer)] = false;
  return absl::OkStatus();
}

}  // namespace

absl::Status ApplyExplicit(const json& object, absl::string_view path, PlanDraft& draft) {
  RETURN_IF_ERROR(CheckMembers(object, path, {"scores", "keys", "values", "value_mix"}));
  // Scores first: whether a head may name keys depends on them.
  for (const Field* field : {&kScores, &kKeys, &kValues}) {
    RETURN_IF_ERROR(ApplySourceList(object, path, *field, draft));
  }
  ASSIGN_OR_RETURN(const json* mixes,
                   FindLayerList(object, path, "value_mix", draft.shape.num_layers));
  if (mixes == nullptr) return absl::OkStatus();
  for (size_t layer = 0; layer < mixes->size(); ++layer) {
    RETURN_IF_ERROR(ApplyMixEntry((*mixes)[layer], Element(Member(path, "value_mix"), layer),
                                  static_cast<int32_t>(layer), draft));
  }
  return absl::OkStatus();
}

}  // namespace strata::kvcache
