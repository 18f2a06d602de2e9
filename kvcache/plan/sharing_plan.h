#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace strata::kvcache {

// The attention dimensions of a decoder: L layers, H query heads, G kv heads of size d. Query head
// h belongs to kv head h * G / H (grouped-query attention).
struct AttentionShape {
  int32_t num_layers = 0;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;

  int32_t KvHeadOf(int32_t query_head) const { return query_head * num_kv_heads / num_query_heads; }
  friend bool operator==(const AttentionShape&, const AttentionShape&) = default;
};

// INVALID_ARGUMENT naming the field and its limit: 1..1024 layers and heads, kv heads that divide
// the query heads, 1..65536 elements a head.
absl::Status CheckShape(const AttentionShape& shape);

// A head of a layer. `head` is a query head for scores, a kv head for keys and values.
struct HeadRef {
  int32_t layer = 0;
  int32_t head = 0;
  friend auto operator<=>(const HeadRef&, const HeadRef&) = default;
};

// Sources of one query head's attention.
//   scores: the (layer, query head) whose softmax it applies; itself when it computes its own.
//   keys:   the key plane that the owner of the scores reads.
//   values: the value plane that the probabilities are applied to.
struct HeadSources {
  HeadRef scores;
  HeadRef keys;
  HeadRef values;
  friend bool operator==(const HeadSources&, const HeadSources&) = default;
};

// ResFormer (arXiv 2410.17897): a kv head's value plane is written as own * V_layer + first * V_0,
// V_0 being layer 0's projection of the same kv head before any mix.
struct ValueMix {
  float own = 1;
  float first = 0;
  friend bool operator==(const ValueMix&, const ValueMix&) = default;
};

// How a query head gets its output, derived from its sources.
enum class HeadRun : uint8_t {
  kComputeScores,  // own queries, own softmax
  kReuseScores,    // another head's probabilities over other values
  kReuseOutput,    // scores and values both equal an earlier head's: its finished output is taken
};

// The sharing plan: for every layer and query head the sources of scores, keys and values; for
// every layer and kv head a value mix or none. Everything else, planes, bytes, tensors to load,
// work of a step, follows from it. Immutable once validated; any thread may read it.
//
// Example: SharingPlan plan = SharingPlan::Plain({.num_layers = 8, .num_query_heads = 4, ...});
class SharingPlan {
 public:
  SharingPlan() = default;

  // Every source is self, no mix. REQUIRES: CheckShape(shape) is OK.
  static SharingPlan Plain(const AttentionShape& shape);

  // sources[layer][query head], mixes[layer][kv head], learnable_mix[layer]. A head that reuses
  // scores may leave `keys` at its own plane.
  //
  // INVALID_ARGUMENT with one line naming layer and head for: a source above its reader, a head
  // that does not exist, scores that end at no owner, keys that are not the owner's, a non-finite
  // mix, a mix in layer 0 (nothing lies below it). Resolves every score source to its owner, and
  // `keys` to the owner's keys. Drops the mix of a value plane that no head reads: the mix is never
  // run, nor its tensor asked for.
  static absl::StatusOr<SharingPlan> Make(const AttentionShape& shape,
                                          std::vector<std::vector<HeadSources>> sources,
                                          std::vector<std::vector<std::optional<ValueMix>>> mixes,
                                          std::vector<bool> learnable_mix);

  const AttentionShape& shape() const { return shape_; }
  const HeadSources& sources(int32_t layer, int32_t query_head) const {
    return sources_[static_cast<size_t>(layer)][static_cast<size_t>(query_head)];
  }
  // The mix of a kv head's written values; nullopt if they are written as projected.
  const std::optional<ValueMix>& mix(int32_t layer, int32_t kv_head) const {
    return mixes_[static_cast<size_t>(layer)][static_cast<size_t>(kv_head)];
  }
  // Whether the checkpoint's `self_attn.value_mix` tensor = [own, first] replaces the layer's
  // mixes; mix() then has a value, the start of the tensor's training.
  bool learnable_mix(int32_t layer) const { return learnable_mix_[static_cast<size_t>(layer)]; }

  // Derived. Lists are in head order.
  bool ComputesScores(int32_t layer, int32_t query_head) const;
  HeadRun Run(int32_t layer, int32_t query_head) const;
  // The earlier head whose finished output equals this one's; for kReuseOutput only.
  HeadRef OutputOwner(int32_t layer, int32_t query_head) const;
  std::vector<int32_t> QueryHeads(int32_t layer) const;       // live rows of q_proj: score owners
  std::vector<int32_t> KeyHeads(int32_t layer) const;         // live rows of k_proj: key planes
  std::vector<int32_t> ValuePlaneHeads(int32_t layer) const;  // value planes that some head reads
  // Live rows of v_proj: ValuePlaneHeads, and in layer 0 also the heads that a mix above takes.
  std::vector<int32_t> ValueHeads(int32_t layer) const;
  // The last layer with a kReuseScores head whose scores are this layer's: this layer's queries and
  // log-sum-exp are kept until then. The layer itself if there is none.
  int32_t LastReaderOfScores(int32_t layer) const;
  // S: most score heads alive at once when decode stores scores, in rows of S f32 logits for every
  // context token. 0 if every reuse is of outputs.
  int32_t StoredScoreHeads() const { return stored_score_heads_; }
  // The place of an owner's scores in such a row, [0, S), reserved from its layer to the last layer
  // with a kReuseScores head of these scores. -1 if there is no such head.
  int32_t ScoreSlot(int32_t layer, int32_t query_head) const {
    return score_slots_[static_cast<size_t>(layer)][static_cast<size_t>(query_head)];
  }

  // One line a layer, for people: "layer 3: scores 0, keys 0, values own"; if heads differ, "layer
  // 3: scores (heads 0-1 from layer 2, 2-3 own), ..."; with a mix, ", mix 0.5 own + 0.5 first".
  std::vector<std::string> DescribeLayers() const;

  friend bool operator==(const SharingPlan&, const SharingPlan&) = default;

 private:
  void DerivePlanes();
  void DropDeadMixes();
  void DeriveRuns();
  void DeriveScoreLives();

  AttentionShape shape_;
  std::vector<std::vector<HeadSources>> sources_;            // [layer][query head]
  std::vector<std::vector<std::optional<ValueMix>>> mixes_;  // [layer][kv head]
  std::vector<bool> learnable_mix_;                          // [layer]

  // Derived from the above once, when the plan is made.
  std::vector<std::vector<int32_t>> key_heads_;          // [layer], kv heads with a key plane
  std::vector<std::vector<int32_t>> value_plane_heads_;  // [layer], kv heads with a value plane
  std::vector<int32_t> first_value_heads_;               // live rows of layer 0's v_proj
  std::vector<std::vector<HeadRef>> output_owners_;      // [layer][query head], self if it has none
  std::vector<int32_t> last_score_readers_;              // [layer]
  std::vector<std::vector<int32_t>> score_slots_;        // [layer][query head], -1 if it has none
  int32_t stored_score_heads_ = 0;
};

}  // namespace strata::kvcache
