#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensor_source.h"
#include "engine/model/tensors_of.h"
#include "kernels/backend.h"

namespace strata::engine {

// One decoder layer on the backend. The projections hold the rows of living heads only, in head
// order; `qkv` stacks queries, keys and values, so that a layer costs one product for all three.
struct LayerWeights {
  std::unique_ptr<kernels::Buffer> input_norm;  // [hidden]
  std::unique_ptr<kernels::Matrix> qkv;         // [(q + k + v heads) * d, hidden]; null: none
  std::unique_ptr<kernels::Matrix> output;      // [hidden, H * d]
  std::unique_ptr<kernels::Buffer> post_attention_norm;  // [hidden]
  std::unique_ptr<kernels::Matrix> gate_up;              // [2 * intermediate, hidden], gated
  std::unique_ptr<kernels::Matrix> down;                 // [hidden, intermediate]
};

struct Weights {
  std::unique_ptr<kernels::Matrix> embedding;  // [vocab, hidden]
  std::unique_ptr<kernels::Matrix> head;       // [vocab, hidden]; null: tied, use `embedding`
  std::unique_ptr<kernels::Buffer> final_norm;
  std::vector<LayerWeights> layers;
  size_t bytes = 0;        // on the backend
  int64_t parameters = 0;  // of the tensors in use
  // Sorted names of the checkpoint's tensors that the plan does not need, and their bytes. A name
  // ends with " (in part)" if rows of other heads are in use.
  std::vector<std::string> unused;
  size_t unused_bytes = 0;

  const kernels::Matrix& lm_head() const { return head ? *head : *embedding; }
};

// Loads the tensors that are needed, stored in `format`. If only some heads of a projection
// live, its tensor may hold the rows of these heads or of all, and is then trimmed. With tied
// embeddings either `model.embed_tokens.weight` or `lm_head.weight` will do; both must be equal.
// INVALID_ARGUMENT, one line naming the tensor and expected against actual shape.
absl::StatusOr<Weights> LoadWeights(const ModelSpec& spec, const TensorList& tensors,
                                    const TensorSource& source, kernels::MatrixFormat format,
                                    kernels::Backend* backend);

}  // namespace strata::engine
