#include "kvcache/plan/sharing_plan.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/check.h"
#include "kernels/status_macros.h"

namespace strata::kvcache {
namespace {

constexpr int32_t kMaxLayers = 1024;
constexpr int32_t kMaxHeads = 1024;
constexpr int32_t kMaxHeadDim = 65536;

using Sources = std::vector<std::vector<HeadSources>>;
using Mixes = std::vector<std::vector<std::optional<ValueMix>>>;

size_t Index(int32_t i) { return static_cast<size_t>(i); }

std::string Name(HeadRef head) { return absl::StrCat("layer ", head.layer, " head ", head.head); }

template <typename... Parts>
absl::Status Refuse(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status CheckRange(absl::string_view field, int32_t value, int32_t limit) {
  if (value >= 1 && value <= limit) return absl::OkStatus();
  return Refuse(field, ": ", value, " is out of range (1..", limit, ")");
}

// `heads`: the number of heads of a layer that could be a source of `what`.
absl::Status CheckSource(const AttentionShape& shape, HeadRef reader, absl::string_view what,
                         HeadRef source, int32_t heads) {
  if (source.layer < 0 || source.layer >= shape.num_layers) {
    return Refuse(Name(reader), ": ", what, " of ", Name(source), ", no such layer (0..",
                  shape.num_layers - 1, ")");
  }
  if (source.head < 0 || source.head >= heads) {
    return Refuse(Name(reader), ": ", what, " of ", Name(source), ", no such head (0..", heads - 1,
                  ")");
  }
  if (source.layer > reader.layer) {
    return Refuse(Name(reader), ": ", what, " of ", Name(source), ", above their reader");
  }
  return absl::OkStatus();
}

absl::Status CheckSources(const AttentionShape& shape, const Sources& sources) {
  if (sources.size() != Index(shape.num_layers)) {
    return Refuse("sources for ", sources.size(), " layers, not ", shape.num_layers);
  }
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const std::vector<HeadSources>& heads = sources[Index(layer)];
    if (heads.size() != Index(shape.num_query_heads)) {
      return Refuse("layer ", layer, ": sources for ", heads.size(), " heads, not ",
                    shape.num_query_heads);
    }
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      const HeadRef reader = {layer, head};
      const HeadSources& from = heads[Index(head)];
      RETURN_IF_ERROR(CheckSource(shape, reader, "scores", from.scores, shape.num_query_heads));
      RETURN_IF_ERROR(CheckSource(shape, reader, "keys", from.keys, shape.num_kv_heads));
      RETURN_IF_ERROR(CheckSource(shape, reader, "values", from.values, shape.num_kv_heads));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMixes(const AttentionShape& shape, const Mixes& mixes,
                        const std::vector<bool>& learnable) {
  if (mixes.size() != Index(shape.num_layers) || learnable.size() != Index(shape.num_layers)) {
    return Refuse("mixes for ", mixes.size(), " and ", learnable.size(), " layers, not ",
                  shape.num_layers);
  }
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const auto& heads = mixes[Index(layer)];
    if (heads.size() != Index(shape.num_kv_heads)) {
      return Refuse("layer ", layer, ": mixes for ", heads.size(), " kv heads, not ",
                    shape.num_kv_heads);
    }
    bool any = false;
    for (int32_t head = 0; head < shape.num_kv_heads; ++head) {
      const std::optional<ValueMix>& mix = heads[Index(head)];
      if (!mix.has_value()) continue;
      any = true;
      if (layer == 0) {
        return Refuse("layer 0 kv head ", head, ": a mix, but there are no values below layer 0");
      }
      if (!std::isfinite(mix->own) || !std::isfinite(mix->first)) {
        return Refuse("layer ", layer, " kv head ", head, ": the mix [", mix->own, ", ", mix->first,
                      "] is not finite");
      }
    }
    if (learnable[Index(layer)] && !any) {
      return Refuse("layer ", layer, ": a learnable mix, but no kv head is mixed");
    }
  }
  return absl::OkStatus();
}

// Replaces every score source by the head at the end of its chain. Chains never rise, and layers
// below are resolved already: a chain takes at most H - 1 hops inside its layer, one hop down, and
// one to the owner. A longer chain is a ring.
absl::Status ResolveScores(const AttentionShape& shape, Sources& sources) {
  const auto scores_of = [&](HeadRef head) -> HeadRef& {
    return sources[Index(head.layer)][Index(head.head)].scores;
  };
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      HeadRef owner = {layer, head};
      for (int32_t hops = 0; scores_of(owner) != owner; ++hops) {
        if (hops > shape.num_query_heads) {
          return Refuse(Name({layer, head}), ": scores that end at no owner");
        }
        owner = scores_of(owner);
      }
      scores_of({layer, head}) = owner;
    }
  }
  return absl::OkStatus();
}

// REQUIRES: scores are resolved.
absl::Status ResolveKeys(const AttentionShape& shape, Sources& sources) {
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      HeadSources& from = sources[Index(layer)][Index(head)];
      const HeadRef owner = from.scores;
      if (owner == HeadRef{layer, head}) continue;
      const HeadRef owner_keys = sources[Index(owner.layer)][Index(owner.head)].keys;
      const HeadRef unsaid = {layer, shape.KvHeadOf(head)};
      if (from.keys != unsaid && from.keys != owner_keys) {
        return Refuse(Name({layer, head}), ": keys of ", Name(from.keys),
                      ", but its scores are those of ", Name(owner), ", which reads keys of ",
                      Name(owner_keys));
      }
      from.keys = owner_keys;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckShape(const AttentionShape& shape) {
  RETURN_IF_ERROR(CheckRange("num_layers", shape.num_layers, kMaxLayers));
  RETURN_IF_ERROR(CheckRange("num_query_heads", shape.num_query_heads, kMaxHeads));
  RETURN_IF_ERROR(CheckRange("num_kv_heads", shape.num_kv_heads, shape.num_query_heads));
  if (shape.num_query_heads % shape.num_kv_heads != 0) {
    return Refuse("num_kv_heads: ", shape.num_kv_heads, " does not divide the ",
                  shape.num_query_heads, " query heads");
  }
  return CheckRange("head_dim", shape.head_dim, kMaxHeadDim);
}

SharingPlan SharingPlan::Plain(const AttentionShape& shape) {
  Sources sources(Index(shape.num_layers));
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    for (int32_t head = 0; head < shape.num_query_heads; ++head) {
      const HeadRef own_plane = {layer, shape.KvHeadOf(head)};
      sources[Index(layer)].push_back(
          {.scores = {layer, head}, .keys = own_plane, .values = own_plane});
    }
  }
  absl::StatusOr<SharingPlan> plan =
      Make(shape, std::move(sources),
           Mixes(Index(shape.num_layers), Mixes::value_type(Index(shape.num_kv_heads))),
           std::vector<bool>(Index(shape.num_layers)));
  STRATA_CHECK(plan.ok(), "the plain plan of a valid shape is valid");
  return *std::move(plan);
}

absl::StatusOr<SharingPlan> SharingPlan::Make(const AttentionShape& shape, Sources sources,
                                              Mixes mixes, std::vector<bool> learnable_mix) {
  RETURN_IF_ERROR(CheckShape(shape));
  RETURN_IF_ERROR(CheckSources(shape, sources));
  RETURN_IF_ERROR(CheckMixes(shape, mixes, learnable_mix));
  RETURN_IF_ERROR(ResolveScores(shape, sources));
  RETURN_IF_ERROR(ResolveKeys(shape, sources));

  SharingPlan plan;
  plan.shape_ = shape;
  plan.sources_ = std::move(sources);
  plan.mixes_ = std::move(mixes);
  plan.learnable_mix_ = std::move(learnable_mix);
  plan.DerivePlanes();
  plan.DropDeadMixes();
  plan.DeriveRuns();
  plan.DeriveScoreLives();
  return plan;
}

bool SharingPlan::ComputesScores(int32_t layer, int32_t query_head) const {
  return sources(layer, query_head).scores == HeadRef{layer, query_head};
}

HeadRun SharingPlan::Run(int32_t layer, int32_t query_head) const {
  if (ComputesScores(layer, query_head)) return HeadRun::kComputeScores;
  const HeadRef owner = output_owners_[Index(layer)][Index(query_head)];
  return owner == HeadRef{layer, query_head} ? HeadRun::kReuseScores : HeadRun::kReuseOutput;
}

HeadRef SharingPlan::OutputOwner(int32_t layer, int32_t query_head) const {
  STRATA_CHECK(Run(layer, query_head) == HeadRun::kReuseOutput, "other heads make their output");
  return output_owners_[Index(layer)][Index(query_head)];
}

std::vector<int32_t> SharingPlan::QueryHeads(int32_t layer) const {
  std::vector<int32_t> heads;
  for (int32_t head = 0; head < shape_.num_query_heads; ++head) {
    if (ComputesScores(layer, head)) heads.push_back(head);
  }
  return heads;
}

std::vector<int32_t> SharingPlan::KeyHeads(int32_t layer) const { return key_heads_[Index(layer)]; }

std::vector<int32_t> SharingPlan::ValuePlaneHeads(int32_t layer) const {
  return value_plane_heads_[Index(layer)];
}

std::vector<int32_t> SharingPlan::ValueHeads(int32_t layer) const {
  return layer == 0 ? first_value_heads_ : value_plane_heads_[Index(layer)];
}

int32_t SharingPlan::LastReaderOfScores(int32_t layer) const {
  return last_score_readers_[Index(layer)];
}

}  // namespace strata::kvcache
