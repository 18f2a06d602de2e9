#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "engine/decode/decoder_layout.h"
#include "engine/model/model_spec.h"
#include "engine/model/tensors_of.h"
#include "engine/serve/engine.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"

namespace strata::engine {

// Bytes of working memory for any steps, without the attention probabilities that requests ask for,
// each up to 3.6 MB.
struct StepNeed {
  size_t scratch = 0;  // the decoder's, taken when it is made
  size_t growth = 0;   // logits and the backend's own: grow to the need of the largest step
};
StepNeed NeedOfSteps(const ModelSpec& spec, const DecoderLayout& layout,
                     const EngineOptions& options, const kernels::Backend& backend);

// Bytes of the matrices that are needed.
size_t NeedOfWeights(const TensorList& tensors, kernels::MatrixFormat weights);

// Bytes that serving a model takes on the CPU under full load, known before any is taken. Small
// parts are left out: norms, tables of blocks.
struct MemoryNeed {
  size_t weights = 0;
  size_t cache = 0;  // the whole budget
  StepNeed steps;
  size_t program = size_t{32} << 20;

  size_t workspace() const { return steps.scratch + steps.growth; }
  size_t total() const { return weights + cache + workspace() + program; }
};

// RESOURCE_EXHAUSTED, the arithmetic in one line, if the need is over `limit` bytes; 0: no limit.
absl::Status CheckMemory(const MemoryNeed& need, size_t limit);

// The memory limit of the process's cgroup in bytes; 0: no limit.
size_t MemoryLimit();

}  // namespace strata::engine
