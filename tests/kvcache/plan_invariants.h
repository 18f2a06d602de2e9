#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvcache/plan/plane_map.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::kvcache {

// Derives everything that a plan derives from the plan's sources, by definition and at any cost,
// and compares. Returns the first disagreement, "" if there is none.
class PlanInvariants {
 public:
  explicit PlanInvariants(const SharingPlan& plan) : plan_(plan), shape_(plan.shape()) {
    for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
      for (int32_t head = 0; head < shape_.num_query_heads; ++head) heads_.push_back({layer, head});
    }
  }

  std::string Check() const {
    for (const HeadRef reader : heads_) {
      if (std::string wrong = CheckHead(reader); !wrong.empty()) return wrong;
    }
    for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
      if (std::string wrong = CheckLayer(layer); !wrong.empty()) return wrong;
    }
    if (plan_.StoredScoreHeads() != MostAliveScores()) return "stored score heads";
    return CheckPlanes();
  }

 private:
  const HeadSources& At(HeadRef head) const { return plan_.sources(head.layer, head.head); }
  bool Computes(HeadRef head) const { return At(head).scores == head; }

  HeadRun RunOf(HeadRef reader) const {
    if (Computes(reader)) return HeadRun::kComputeScores;
    return FirstAlike(reader) == reader ? HeadRun::kReuseScores : HeadRun::kReuseOutput;
  }

  HeadRef FirstAlike(HeadRef reader) const {
    return *std::find_if(heads_.begin(), heads_.end(), [&](HeadRef head) {
      return At(head).scores == At(reader).scores && At(head).values == At(reader).values;
    });
  }

  std::string CheckHead(HeadRef reader) const {
    const std::string name = absl::StrCat("layer ", reader.layer, " head ", reader.head, ": ");
    const HeadSources& from = At(reader);
    for (const HeadRef source : {from.scores, from.keys, from.values}) {
      if (source.layer < 0 || source.layer > reader.layer) return name + "source layer";
      if (source.head < 0) return name + "source head";
    }
    if (from.scores.head >= shape_.num_query_heads) return name + "scores";
    if (from.keys.head >= shape_.num_kv_heads) return name + "keys";
    if (from.values.head >= shape_.num_kv_heads) return name + "values";
    if (!Computes(from.scores)) return name + "scores of a head that does not compute";
    if (At(from.scores).keys != from.keys) return name + "keys that are not the owner's";
    if (plan_.ComputesScores(reader.layer, reader.head) != Computes(reader)) return name + "owner";
    if (plan_.Run(reader.layer, reader.head) != RunOf(reader)) return name + "run";
    if (RunOf(reader) == HeadRun::kReuseOutput) {
      const HeadRef owner = plan_.OutputOwner(reader.layer, reader.head);
      if (owner != FirstAlike(reader) || owner >= reader) return name + "output owner";
      if (RunOf(owner) == HeadRun::kReuseOutput) return name + "an output owner that has none";
    }
    return "";
  }

  std::string CheckLayer(int32_t layer) const {
    const std::string name = absl::StrCat("layer ", layer, ": ");
    std::set<int32_t> queries, keys, planes, values;
    int32_t last_reader = layer;
    for (const HeadRef head : heads_) {
      const HeadSources& from = At(head);
      if (head.layer == layer && Computes(head)) queries.insert(head.head);
      if (from.keys.layer == layer && Computes(head)) keys.insert(from.keys.head);
      if (from.values.layer == layer) planes.insert(from.values.head);
      if (RunOf(head) == HeadRun::kReuseScores && from.scores.layer == layer) {
        last_reader = head.layer;
      }
    }
    values = planes;
    for (int32_t head = 0; head < shape_.num_kv_heads; ++head) {
      if (!plan_.mix(layer, head).has_value()) continue;
      if (layer == 0 || !planes.contains(head)) return name + "a mix that nothing runs";
    }
    for (int32_t above = 1; layer == 0 && above < shape_.num_layers; ++above) {
      for (const int32_t head : plan_.ValuePlaneHeads(above)) {
        if (plan_.mix(above, head).has_value()) values.insert(head);
      }
    }
    const auto list = [](const std::set<int32_t>& heads) {
      return std::vector<int32_t>(heads.begin(), heads.end());
    };
    if (plan_.QueryHeads(layer) != list(queries)) return name + "query heads";
    if (plan_.KeyHeads(layer) != list(keys)) return name + "key heads";
    if (plan_.ValuePlaneHeads(layer) != list(planes)) return name + "value plane heads";
    if (plan_.ValueHeads(layer) != list(values)) return name + "value heads";
    if (plan_.LastReaderOfScores(layer) != last_reader) return name + "last reader of scores";
    return "";
  }

  int32_t MostAliveScores() const {
    int32_t most = 0;
    for (int32_t layer = 0; layer < shape_.num_layers; ++layer) {
      int32_t alive = 0;
      for (const HeadRef owner : heads_) {
        const bool read_from_here = std::any_of(heads_.begin(), heads_.end(), [&](HeadRef head) {
          return head.layer >= layer && At(head).scores == owner &&
                 RunOf(head) == HeadRun::kReuseScores;
        });
        if (owner.layer <= layer && read_from_here) ++alive;
      }
      most = std::max(most, alive);
    }
    return most;
  }

  std::string CheckPlanes() const {
    const auto head_dim = static_cast<size_t>(shape_.head_dim);
    const size_t bf16_bytes = 2 * head_dim;
    const size_t int8_bytes = (head_dim + 3) / 4 * 4 + 4;
    for (const size_t key_bytes : {bf16_bytes, int8_bytes}) {
      for (const size_t value_bytes : {bf16_bytes, int8_bytes}) {
        const auto dtype = [&](size_t bytes) {
          return bytes == bf16_bytes ? kernels::PlaneFormat::kBF16 : kernels::PlaneFormat::kI8;
        };
        const PlaneMap planes(plan_, {dtype(key_bytes), dtype(value_bytes)}, 16);
        const std::string wrong = CheckPlanes(planes, key_bytes, value_bytes);
        if (!wrong.empty()) return wrong;
      }
    }
    return "";
  }

  // Bytes of a token in a key and in a value plane.
  std::string CheckPlanes(const PlaneMap& planes, size_t key_bytes, size_t value_bytes) const {
    if (planes.bytes_per_token() * 16 != planes.block_bytes()) return "bytes per token";
    if (planes.bytes_per_token() > planes.plain_bytes_per_token()) return "more than plain";
    std::set<HeadRef> keys, values;
    for (const HeadRef head : heads_) {
      keys.insert(At(head).keys);  // a reuser's keys are its owner's
      values.insert(At(head).values);
      if (planes.KeyPlane(At(head).keys).offset >= planes.block_bytes()) return "key offset";
      if (planes.ValuePlane(At(head).values).offset >= planes.block_bytes()) return "value offset";
    }
    if (planes.planes().size() != keys.size() + values.size()) return "number of planes";
    size_t end = 0;
    for (const Plane& plane : planes.planes()) {
      const bool is_key = plane.kind == kernels::PlaneKind::kKey;
      if (plane.offset != end) return "plane offset";
      end += 16 * (is_key ? key_bytes : value_bytes);
      if (!(is_key ? keys : values).contains(plane.head)) return "a plane that nobody reads";
      const kernels::PlaneRef ref =
          is_key ? planes.KeyPlane(plane.head) : planes.ValuePlane(plane.head);
      if (ref.offset != plane.offset) return "offset of a plane";
    }
    return planes.block_bytes() == end ? "" : "block bytes";
  }

  const SharingPlan& plan_;
  AttentionShape shape_;
  std::vector<HeadRef> heads_;  // every query head, in (layer, head) order
};

}  // namespace strata::kvcache
