#include <algorithm>
#include <string_view>
#include <vector>

#include "kvcache/plan/plan_draft.h"

namespace strata::kvcache {
namespace {

// The source of a head that a list names.
struct Field {
  const char* name;
  HeadRef HeadSources::*source;
  bool names_kv_heads;
};

constexpr Field kScores = {"scores", &HeadSources::scores, false};
constexpr Field kKeys = {"keys", &HeadSources::keys, true};
constexpr Field kValues = {"values", &HeadSources::values, true};

// The entries of the list `name`, at most one a layer; none if it is absent.
std::vector<JsonReader> LayerEntries(JsonReader& object, std::string_view name,
                                     int32_t num_layers) {
  if (!object.Has(name)) return {};
  std::vector<JsonReader> entries = object.Elements(name, "a list with an entry a layer");
  if (entries.size() <= static_cast<size_t>(num_layers)) return entries;
  object.Fail(name, entries.size(), " entries, but the model has ", num_layers, " layers");
  return {};
}

// Fails an entry whose list has not one element for each of `count` heads.
bool CheckLength(JsonReader& entry, size_t count, std::string_view heads) {
  if (entry.value().size() == count) return true;
  entry.FailExpected("", "one entry for each of ", count, " ", heads, " heads");
  return false;
}

int32_t ReadSourceLayer(JsonReader& entry, HeadRef reader) {
  return static_cast<int32_t>(entry.Integer("", 0, reader.layer, "a layer at or below its reader"));
}

// One head's entry: null keeps the source; otherwise a layer, or [layer, head].
void ReadHeadEntry(JsonReader& entry, const Field& field, HeadRef reader, PlanDraft& draft) {
  if (entry.value().is_null()) return;
  HeadSources& from = draft.at(reader.layer, reader.head);
  if (&field == &kKeys && from.scores != reader) {
    entry.Fail("", "layer ", reader.layer, " head ", reader.head, " applies scores of layer ",
               from.scores.layer, " head ", from.scores.head, ", so it has no keys to name");
    return;
  }
  const AttentionShape& shape = draft.shape;
  HeadRef& source = from.*field.source;
  if (!entry.value().is_array()) {
    source = {ReadSourceLayer(entry, reader),
              field.names_kv_heads ? shape.KvHeadOf(reader.head) : reader.head};
    return;
  }
  std::vector<JsonReader> pair = entry.Elements("");
  if (pair.size() != 2) {
    entry.FailExpected("", "[layer, head]");
    return;
  }
  const int32_t heads = field.names_kv_heads ? shape.num_kv_heads : shape.num_query_heads;
  source.layer = ReadSourceLayer(pair[0], reader);
  source.head = static_cast<int32_t>(
      pair[1].Integer("", 0, heads - 1, field.names_kv_heads ? "a kv head" : "a query head"));
}

void ReadSourceList(JsonReader& object, const Field& field, PlanDraft& draft) {
  const auto num_heads = static_cast<size_t>(draft.shape.num_query_heads);
  std::vector<JsonReader> layers = LayerEntries(object, field.name, draft.shape.num_layers);
  for (size_t layer = 0; layer < layers.size() && object.ok(); ++layer) {
    JsonReader& entry = layers[layer];
    std::vector<JsonReader> heads(num_heads, entry);
    if (entry.value().is_array()) {
      if (!CheckLength(entry, num_heads, "query")) return;
      heads = entry.Elements("");
    }
    for (size_t head = 0; head < num_heads; ++head) {
      ReadHeadEntry(heads[head], field, {static_cast<int32_t>(layer), static_cast<int32_t>(head)},
                    draft);
    }
  }
}

ValueMix ReadPair(JsonReader& entry) {
  if (!entry.value().is_array() || entry.value().size() != 2) {
    entry.FailExpected("", "[own, first]");
    return {};
  }
  std::vector<JsonReader> pair = entry.Elements("");
  return {.own = ReadFinite(pair[0], ""), .first = ReadFinite(pair[1], "")};
}

// One layer's entry: [own, first] for all kv heads, or a list of such pairs and nulls, one a kv
// head.
void ReadMixEntry(JsonReader& entry, size_t layer, PlanDraft& draft) {
  const nlohmann::json& value = entry.value();
  if (value.is_null()) return;
  if (layer == 0) entry.Fail("", "layer 0 has no values below it to mix");
  auto& mixes = draft.mixes[layer];
  if (!value.is_array() || (!value.empty() && value[0].is_number())) {
    std::fill(mixes.begin(), mixes.end(), ReadPair(entry));
  } else if (CheckLength(entry, mixes.size(), "kv")) {
    std::vector<JsonReader> heads = entry.Elements("");
    for (size_t head = 0; head < mixes.size(); ++head) {
      if (!heads[head].value().is_null()) {
        mixes[head] = ReadPair(heads[head]);
      } else if (draft.learnable_mix[layer]) {
        entry.Fail("", "layer ", layer, " has a learnable mix: name every kv head or none");
      }
    }
  }
  draft.learnable_mix[layer] = false;
}

}  // namespace

void ReadExplicit(JsonReader& object, PlanDraft& draft) {
  constexpr std::string_view kFields[] = {"scores", "keys", "values", "value_mix"};
  object.RefuseOthers(kFields);
  // Scores first: whether a head may name keys depends on them.
  for (const Field* field : {&kScores, &kKeys, &kValues}) ReadSourceList(object, *field, draft);
  std::vector<JsonReader> mixes = LayerEntries(object, "value_mix", draft.shape.num_layers);
  for (size_t layer = 0; layer < mixes.size(); ++layer) ReadMixEntry(mixes[layer], layer, draft);
}

}  // namespace strata::kvcache
