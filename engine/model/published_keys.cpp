#include "engine/model/published_keys.h"

#include <cstdint>
#include <numeric>
#include <string_view>
#include <vector>

#include "kvcache/plan/plan_parser.h"
#include "kvcache/plan/plan_presets.h"

namespace strata::engine {
namespace {

using kvcache::AttentionShape;
using kvcache::SharingPlan;

// A reader of one key: nullopt if the key is absent, or asks for no sharing.
using Voice = std::optional<SharingPlan> (*)(JsonReader& config, const AttentionShape& shape);

std::optional<SharingPlan> FromCrossLayer(JsonReader& config, const AttentionShape& shape) {
  if (!config.Has("cross_layer")) return std::nullopt;
  return kvcache::ReadPlan(config.Member("cross_layer"), shape);
}

// Gemma: the last n layers read keys and values of the last layer before them.
std::optional<SharingPlan> FromSharedLayers(JsonReader& config, const AttentionShape& shape) {
  const auto shared = static_cast<int32_t>(
      config.OptionalInteger("num_kv_shared_layers", 0, shape.num_layers - 1).value_or(0));
  if (shared == 0) return std::nullopt;
  kvcache::LayerGroup group(static_cast<size_t>(shared) + 1);
  std::iota(group.begin(), group.end(), shape.num_layers - shared - 1);
  return kvcache::KvGroupsPlan(shape, {group});
}

// Hunyuan: the factor has no effect unless use_cla is true.
std::optional<SharingPlan> FromCla(JsonReader& config, const AttentionShape& shape) {
  if (!config.Bool("use_cla", false)) return std::nullopt;
  return kvcache::ClaPlan(
      shape, static_cast<int32_t>(config.Integer("cla_share_factor", 1, shape.num_layers)));
}

// Hymba: layers of a group read keys and values of its first layer.
std::optional<SharingPlan> FromReuseGroups(JsonReader& config, const AttentionShape& shape) {
  constexpr std::string_view kKey = "kv_reuse_group";
  if (AsksForNothing(config.Value(kKey))) return std::nullopt;
  const auto groups = kvcache::ReadKvGroups(config, kKey, shape.num_layers);
  return config.ok() ? kvcache::KvGroupsPlan(shape, groups) : SharingPlan::Plain(shape);
}

constexpr struct {
  std::string_view key;
  Voice read;
} kVoices[] = {
    {"cross_layer", FromCrossLayer},
    {"num_kv_shared_layers", FromSharedLayers},
    {"use_cla", FromCla},
    {"kv_reuse_group", FromReuseGroups},
};

}  // namespace

std::optional<SharingPlan> ReadCrossLayer(JsonReader& config, const AttentionShape& shape) {
  std::optional<SharingPlan> plan;
  std::string_view speaking;
  for (const auto& voice : kVoices) {
    std::optional<SharingPlan> read = voice.read(config, shape);
    if (!read) continue;
    if (plan) config.Fail(voice.key, "set beside ", speaking, ", want one of them");
    speaking = voice.key;
    plan = std::move(read);
  }
  return plan;
}

}  // namespace strata::engine
