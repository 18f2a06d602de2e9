#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "engine/engine.h"
#include "engine/model_config.h"
#include "kernels/tensor.h"
#include "kvcache/sharing_plan.h"

namespace strata::engine {

// What serving a model comes to on the CPU under full load, in bytes, before any of it is taken.
// What is small beside these is left out: norms, tables of blocks, the threads' tiles.
struct MemoryNeed {
  size_t weights = 0;    // matrices that the plan needs
  size_t cache = 0;      // all that it may take
  size_t workspace = 0;  // activations and logits of the largest step, the rope table
  size_t program = size_t{32} << 20;

  size_t total() const { return weights + cache + workspace + program; }
};
MemoryNeed NeedOf(const ModelConfig& config, const kvcache::SharingPlan& plan,
                  kernels::DType weights, const EngineOptions& options);

// RESOURCE_EXHAUSTED, the arithmetic in one line, where the need is over `limit` bytes; 0: no
// limit.
absl::Status CheckMemory(const MemoryNeed& need, size_t limit);

// What the process's cgroup allows; 0: no limit.
size_t MemoryLimit();

}  // namespace strata::engine
