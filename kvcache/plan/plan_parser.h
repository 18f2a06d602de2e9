#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/base/json_reader.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// The value of the key "cross_layer" in config.json, or of --cross-layer: a preset, a list of
// presets applied in order, or explicit lists. `null` gives the plain plan.
//
//   {"preset":"plain"}
//   {"preset":"svformer","anchors":[0]}
//   {"preset":"resformer","mix":"identity|constant|learnable","own":1,"first":2,"layers":[...]}
//       mix: default identity; own, first: with constant alone; layers: default all above 0
//   {"preset":"reuse","compute_layers":[0,4],"heads":R}     heads: 0..H, default all
//   {"preset":"sla","skip_layers":9,"skip_heads":9}
//   {"preset":"cla","factor":2}
//   {"preset":"kv-groups","groups":[[0,1],[2,3,4]]}         each group reads its first layer's K, V
//   {"preset":"skipv1"}
//   {"preset":"fusedkv-lite","layer":n}
//   {"scores":[...],"keys":[...],"values":[...],"value_mix":[...]}
// In the explicit form each list has at most one entry a layer, missing ones are self; an entry is
// null (self), a layer (for all heads, each from the same head), or a list with one entry a query
// head: null, a layer, or [layer, head]. `keys` and `values` name kv heads. A head that reuses
// scores has no keys of its own: naming them is an error. An entry of value_mix is null, [own,
// first], or a list of such entries, one a kv head.
//
// Explicit lists may follow presets in a list; a list that is missing leaves the presets' sources.
//
// A plan that is wrong fails the reader, in one line that names the field, the layer and the head;
// the plain plan is then returned. REQUIRES: CheckShape(shape) is OK.
SharingPlan ReadPlan(JsonReader cross_layer, const AttentionShape& shape);
// The same for a document of its own, called "cross_layer". INVALID_ARGUMENT if it, or the shape,
// is wrong.
absl::StatusOr<SharingPlan> ParsePlan(const nlohmann::json& cross_layer,
                                      const AttentionShape& shape);

// The projections of a layer that a checkpoint holds.
struct ProjectionsPresent {
  bool query = false;
  bool key = false;
  bool value = false;
};

// The plan that a checkpoint without "cross_layer" must have: a missing projection is taken from
// the nearest layer below that has it (values: SVFormer; queries and keys: Reuse; keys and values:
// CLA; all three: SVFormer + Reuse). INVALID_ARGUMENT if layer 0 lacks one, or a layer has keys but
// no queries.
absl::StatusOr<SharingPlan> DetectPlan(const std::vector<ProjectionsPresent>& layers,
                                       const AttentionShape& shape);

}  // namespace strata::kvcache
