#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"
#include "engine/model/rope.h"
#include "kernels/tensor.h"
#include "kvcache/plan/sharing_plan.h"

// A model's computation, in values. Nothing behind this header knows an architecture's name or a
// key of a config.
namespace strata::engine {

enum class NormKind {
  kRms,         // x / rms(x) * w
  kRmsPlusOne,  // x / rms(x) * (1 + w)
  kRmsPlain,    // x / rms(x)
  kLayerNorm,   // (x - mean(x)) / std(x) * w + b
};

// x is a layer's input, A its attention, F its feed-forward, n(.) a norm.
enum class NormPlacement {
  kBefore,          // x += A(n x); x += F(n x)
  kBeforeAndAfter,  // x += n A(n x); x += n F(n x)
  kAfter,           // x += n A(x); x += n F(x)
  kParallel,        // x += A(n x) + F(n x)
};

enum class Activation { kSilu, kGeluTanh, kGelu, kRelu2 };

// A norm of queries and keys, with RMS.
enum class HeadNorm {
  kNone,
  kPerHead,   // over a head's elements, before the rotation
  kAllHeads,  // over the elements of all heads
  kAfterRotation,
};

struct AttentionSpec {
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;  // divides num_query_heads
  int32_t head_dim = 0;
  bool qkv_biases = false;
  bool output_bias = false;
  HeadNorm query_key_norm = HeadNorm::kNone;
  std::optional<RopeSpec> rope = {};  // nullopt: no rotation
  std::optional<int32_t> window =
      {};                  // key j is seen by row i if i - window < j <= i; nullopt: all
  double score_scale = 0;  // of query times key
  std::optional<double> score_cap = {};  // c * tanh(score / c)

  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

struct FeedForwardSpec {
  int32_t width = 0;
  Activation activation = Activation::kSilu;
  bool gated = true;  // down(activation(gate x) * up x); else down(activation(up x))
  bool biases = false;

  friend bool operator==(const FeedForwardSpec&, const FeedForwardSpec&) = default;
};

struct LayerSpec {
  AttentionSpec attention;
  FeedForwardSpec feed_forward;
  NormPlacement norms = NormPlacement::kBefore;
  double residual_multiplier = 1;  // of both sums

  friend bool operator==(const LayerSpec&, const LayerSpec&) = default;
};

// Names of tensors in a checkpoint, by TensorRole (tensors_of.h); # stands for a layer's number.
using TensorNames = std::array<std::string_view, 13>;

// All sizes are within limits far above every published model, so that no product of two overflows
// 64 bits. layers is not empty.
struct ModelSpec {
  std::string architecture;  // for people: "LlamaForCausalLM"
  int32_t hidden_size = 0;
  int32_t vocab_size = 0;
  int32_t max_positions = 0;  // prompt and output together
  double embedding_multiplier = 1;
  NormKind norm = NormKind::kRms;  // of the layers, and of the end
  float norm_epsilon = 1e-6F;
  std::vector<LayerSpec> layers;
  bool tied_embeddings = false;
  double logit_multiplier = 1;
  std::optional<double> logit_cap;  // c * tanh(logit / c)

  TensorNames tensor_names{};
  kernels::ElementType dtype = kernels::ElementType::kF32;  // of the checkpoint
  std::vector<int32_t> eos_ids;                             // ascending; may be empty
  SamplingDefaults defaults;                                // of parameters that a request omits
  // The plan that the model asks for; nullopt: what its tensors allow (DetectPlan).
  std::optional<kvcache::SharingPlan> plan;

  // REQUIRES: CheckRuns is OK, so that all layers are alike.
  const AttentionSpec& attention() const { return layers.front().attention; }
  const FeedForwardSpec& feed_forward() const { return layers.front().feed_forward; }
  kvcache::AttentionShape shape() const;
};

// UNIMPLEMENTED, one line "layer 3: the feature is not built", for the first value above that the
// decoder does not compute on any backend. What a backend lacks, it refuses itself.
absl::Status CheckRuns(const ModelSpec& spec);

}  // namespace strata::engine
