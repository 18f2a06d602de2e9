#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensor_source.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

enum class TensorRole : uint8_t {
  // One in the whole model.
  kEmbedding,  // [vocab, hidden]
  kHead,       // [vocab, hidden]
  kFinalNorm,  // [hidden]
  // One in each layer.
  kAttentionNorm,    // [hidden]
  kQuery,            // [H * d, hidden]
  kKey,              // [G * d, hidden]
  kValue,            // [G * d, hidden]
  kValueMix,         // [2] = [own, first], for a learnable mix of a ResFormer
  kOutput,           // [hidden, H * d]
  kFeedForwardNorm,  // [hidden]
  kGate,             // [intermediate, hidden]
  kUp,               // [intermediate, hidden]
  kDown,             // [hidden, intermediate]
};
inline constexpr size_t kNumTensorRoles = std::tuple_size_v<TensorNames>;

// A tensor that a model may have.
struct TensorSpec {
  TensorRole role = TensorRole::kEmbedding;
  int32_t layer = 0;  // of the roles of each layer
  std::string name;
  std::string or_name = {};    // another name it may have, if not empty
  std::vector<int64_t> shape;  // in full
  // A projection's rows belong to `heads` heads; the plan needs those in `living`, ascending. A
  // checkpoint may hold these alone. heads = 0: rows are of no head.
  std::vector<int32_t> living = {};
  int32_t heads = 0;
  bool needed = true;  // by the plan

  bool is_matrix() const { return shape.size() == 2; }
  // The shape without the rows of other heads.
  std::vector<int64_t> LivingShape() const;
};

// Every tensor that a model with this plan may have: the only list of them. Loader, random weights,
// the estimate of memory, the detection of a plan and error messages read it.
class TensorList {
 public:
  explicit TensorList(std::vector<TensorSpec> tensors) : tensors_(std::move(tensors)) {}
  auto begin() const { return tensors_.begin(); }
  auto end() const { return tensors_.end(); }
  // REQUIRES: the layer is one of the model's.
  const TensorSpec& at(TensorRole role, int32_t layer = 0) const;

 private:
  std::vector<TensorSpec> tensors_;  // roles of the whole model, then those of each layer
};
TensorList TensorsOf(const ModelSpec& spec, const kvcache::SharingPlan& plan);

// OK if every tensor of the source is in the list, or is known to be dead in every model: a table
// of angles (rotary_emb.inv_freq), which config.json has the numbers of. INVALID_ARGUMENT, one line
// that begins with `where` and names the first other tensor and the number of further ones. A bias,
// a norm or a layer that config.json does not mention would still be a part of the model.
absl::Status CheckTensorNames(std::string_view where, const TensorSource& source,
                              const ModelSpec& spec);

}  // namespace strata::engine
