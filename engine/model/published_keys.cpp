#include "engine/model/published_keys.h"

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/base/json_file.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

Json KvGroups(Json groups) { return {{"preset", "kv-groups"}, {"groups", std::move(groups)}}; }

// Gemma: the last n layers read keys and values of the last layer before them.
Json FromSharedLayers(ConfigReader& config, int64_t num_layers) {
  const int64_t shared = config.Int("num_kv_shared_layers", 0, {.min = 0, .max = num_layers - 1});
  if (shared == 0) return nullptr;
  Json group = Json::array();
  for (int64_t layer = num_layers - shared - 1; layer < num_layers; ++layer) group.push_back(layer);
  return KvGroups(Json::array({std::move(group)}));
}

// Hunyuan: the factor has no effect unless use_cla is true.
Json FromCla(ConfigReader& config, int64_t num_layers) {
  if (!config.Bool("use_cla", false)) return nullptr;
  const int64_t factor = config.RequiredInt("cla_share_factor", {.min = 1, .max = num_layers});
  return {{"preset", "cla"}, {"factor", factor}};
}

// Hymba: layers of a group read keys and values of its first layer.
Json FromReuseGroups(ConfigReader& config) {
  const Json* groups = config.Get("kv_reuse_group");
  if (groups == nullptr || *groups == Json::array()) return nullptr;
  bool lists = groups->is_array();
  for (const Json& group : *groups) lists = lists && group.is_array() && !group.empty();
  if (!lists) {
    config.Refuse("kv_reuse_group = ", PrintableJson(*groups), ", want lists of layers");
    return nullptr;
  }
  return KvGroups(*groups);
}

}  // namespace

Json ReadCrossLayer(ConfigReader& config, int64_t num_layers) {
  const Json* own = config.Get("cross_layer");
  const std::pair<std::string_view, Json> voices[] = {
      {"cross_layer", own == nullptr ? Json() : *own},
      {"num_kv_shared_layers", FromSharedLayers(config, num_layers)},
      {"use_cla", FromCla(config, num_layers)},
      {"kv_reuse_group", FromReuseGroups(config)},
  };
  const std::pair<std::string_view, Json>* speaking = nullptr;
  for (const auto& voice : voices) {
    if (voice.second.is_null()) continue;
    if (speaking != nullptr) {
      config.Refuse("both ", speaking->first, " and ", voice.first, " are set, want one of them");
      return nullptr;
    }
    speaking = &voice;
  }
  return speaking == nullptr ? Json() : speaking->second;
}

}  // namespace strata::engine
