#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "engine/decode/decoder_layout.h"
#include "engine/model/model_config.h"
#include "engine/serve/engine.h"
#include "kernels/backend.h"
#include "kernels/tensor.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// Working memory in bytes, whatever the steps are of; but for the attention probabilities that
// requests ask for, each up to 3.6 MB.
struct StepNeed {
  size_t scratch = 0;  // the decoder's, taken when it is made
  size_t growth = 0;   // logits and the backend's own: they grow to what the largest step needs
};
StepNeed NeedOfSteps(const ModelConfig& config, const DecoderLayout& layout,
                     const EngineOptions& options, const kernels::Backend& backend);

// Of the matrices that the plan needs, in bytes.
size_t NeedOfWeights(const ModelConfig& config, const kvcache::SharingPlan& plan,
                     kernels::DType weights);

// What serving a model comes to on the CPU under full load, in bytes, before any of it is taken.
// What is small beside these is left out: norms, tables of blocks.
struct MemoryNeed {
  size_t weights = 0;
  size_t cache = 0;  // all that it may take
  StepNeed steps;
  size_t program = size_t{32} << 20;

  size_t workspace() const { return steps.scratch + steps.growth; }
  size_t total() const { return weights + cache + workspace() + program; }
};

// RESOURCE_EXHAUSTED, the arithmetic in one line, where the need is over `limit` bytes; 0: no
// limit.
absl::Status CheckMemory(const MemoryNeed& need, size_t limit);

// What the process's cgroup allows; 0: no limit.
size_t MemoryLimit();

}  // namespace strata::engine
