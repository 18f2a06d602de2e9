#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/decode/decoder.h"
#include "engine/model/model_spec.h"
#include "engine/model/weights.h"
#include "engine/serve/engine.h"
#include "kernels/backend.h"
#include "kvcache/blocks/cache_manager.h"

namespace strata::engine {

// A model ready to run: the parts of EngineCore in order of dependence (later members point to
// earlier ones).
struct LoadedModel {
  ModelSpec spec;
  kvcache::SharingPlan plan;
  ModelInfo info;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Weights> weights;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<kvcache::CacheManager> cache;
};

// INVALID_ARGUMENT "option: value and limit" for an option out of range; else the one-line errors
// of config, checkpoint, plan, cache and backend. A `backend` (of a test) is used in place of
// options.device.
absl::StatusOr<LoadedModel> LoadModel(const EngineOptions& options,
                                      std::unique_ptr<kernels::Backend> backend = nullptr);

}  // namespace strata::engine
