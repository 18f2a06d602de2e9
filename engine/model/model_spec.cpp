#include "engine/model/model_spec.h"

#include <cmath>
#include <string_view>

#include "kvcache/base/errors.h"

namespace strata::engine {
namespace {

constexpr int32_t kMostHeadElements = 256;  // of the kernels

// The first value of a layer that is not computed, in words; "" if there is none.
std::string NotBuilt(const AttentionSpec& attention) {
  if (attention.qkv_biases) return "a bias of queries, keys and values";
  if (attention.output_bias) return "a bias of the attention's output";
  if (attention.query_key_norm != HeadNorm::kNone) return "a norm of queries and keys";
  if (!attention.rope) return "attention without rotation";
  if (attention.rope->width != attention.head_dim) return "rotation of a part of a head";
  if (attention.rope->interleaved) return "rotation of neighbouring elements";
  if (attention.window) return Concat("a window of ", *attention.window, " tokens");
  if (attention.score_cap) return Concat("a cap of scores at ", *attention.score_cap);
  if (attention.score_scale != 1 / std::sqrt(double{1} * attention.head_dim)) {
    return Concat("a scale of scores of ", attention.score_scale);
  }
  if (attention.head_dim > kMostHeadElements || attention.head_dim % 2 != 0) {
    return Concat("a head_dim of ", attention.head_dim, ", other than an even one up to ",
                  kMostHeadElements, ",");
  }
  return "";
}

std::string NotBuilt(const LayerSpec& layer) {
  if (layer.norms != NormPlacement::kBefore) return "a norm elsewhere than before each block";
  if (layer.residual_multiplier != 1) {
    return Concat("a multiplier of residuals of ", layer.residual_multiplier);
  }
  const FeedForwardSpec& feed_forward = layer.feed_forward;
  if (!feed_forward.gated) return "a feed-forward block without a gate";
  if (feed_forward.activation != Activation::kSilu) return "an activation other than SiLU";
  if (feed_forward.biases) return "a bias of the feed-forward block";
  return NotBuilt(layer.attention);
}

std::string NotBuilt(const ModelSpec& spec) {
  if (spec.norm != NormKind::kRms) return "a norm other than RMSNorm";
  if (spec.embedding_multiplier != 1) {
    return Concat("a multiplier of embeddings of ", spec.embedding_multiplier);
  }
  if (spec.logit_multiplier != 1)
    return Concat("a multiplier of logits of ", spec.logit_multiplier);
  if (spec.logit_cap) return Concat("a cap of logits at ", *spec.logit_cap);
  return "";
}

}  // namespace

kvcache::AttentionShape ModelSpec::shape() const {
  return {.num_layers = static_cast<int32_t>(layers.size()),
          .num_query_heads = attention().num_query_heads,
          .num_kv_heads = attention().num_kv_heads,
          .head_dim = attention().head_dim};
}

absl::Status CheckRuns(const ModelSpec& spec) {
  const std::string whole = NotBuilt(spec);
  if (!whole.empty()) return Unimplemented(whole, " is not built");
  for (size_t layer = 0; layer < spec.layers.size(); ++layer) {
    std::string reason = NotBuilt(spec.layers[layer]);
    if (reason.empty() && spec.layers[layer] != spec.layers[0]) {
      reason = "a layer with other values than layer 0";
    }
    if (!reason.empty()) return Unimplemented("layer ", layer, ": ", reason, " is not built");
  }
  return absl::OkStatus();
}

}  // namespace strata::engine
