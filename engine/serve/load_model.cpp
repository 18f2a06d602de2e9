#include "engine/serve/load_model.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/base/errors.h"
#include "engine/base/json_file.h"
#include "engine/model/dtypes.h"
#include "engine/model/model_name.h"
#include "engine/model/random_tensors.h"
#include "engine/model/resolve_plan.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_names.h"
#include "engine/serve/memory_need.h"
#include "kvcache/plan/plan_parser.h"
#include "kvcache/plan/plan_presets.h"

namespace strata::engine {
namespace {

using kernels::DType;

absl::Status CheckRange(std::string_view option, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument(option, ": ", value, " is not in ", low, "..", high);
}

absl::Status CheckOptions(const EngineOptions& options) {
  const struct {
    std::string_view name;
    int64_t value, low, high;
  } ranges[] = {
      {"threads", options.threads, 0, 256},
      {"block-tokens", options.block_tokens, 1, 1024},
      {"max-batch-tokens", options.max_batch_tokens, 0, 65536},
      {"max-prefill-chunk", options.max_prefill_chunk, 0, 65536},
      {"max-running", options.max_running, 1, 32768},  // a CUDA grid is 65,535 blocks deep
      {"max-queue", options.max_queue, 1, 1 << 20},
  };
  for (const auto& range : ranges) {
    RETURN_IF_ERROR(CheckRange(range.name, range.value, range.low, range.high));
  }
  if (!(options.memory_share >= 0 && options.memory_share <= 1)) {
    return InvalidArgument("memory-share: ", options.memory_share, " is not in 0..1");
  }
  return absl::OkStatus();
}

// The bytes that a share of the device's memory leaves for the cache. `before`: memory before the
// model was loaded; `working`: bytes that steps may still allocate.
absl::StatusOr<size_t> CacheBytes(double share, const kernels::DeviceMemory& before,
                                  const kernels::DeviceMemory& now, size_t working) {
  const auto budget = static_cast<size_t>(share * static_cast<double>(now.total));
  const size_t taken = before.available - std::min(before.available, now.available);
  const std::string sum =
      Concat("memory-share: ", share, " of ", now.total, " bytes is ", budget,
             ", of which the model takes ", taken, " and steps up to ", working);
  if (taken + working >= budget) {
    return absl::ResourceExhaustedError(Concat(sum, ": nothing is left for the cache"));
  }
  const size_t left = budget - taken - working;
  if (left + working > now.available) {
    return absl::ResourceExhaustedError(
        Concat(sum, ": the cache would have ", left, ", but only ", now.available, " are free"));
  }
  return left;
}

// The plan that the option asks for, by name or as JSON; nullopt if it is empty.
absl::StatusOr<std::optional<kvcache::SharingPlan>> ParseOverride(
    const std::string& cross_layer, const kvcache::AttentionShape& shape) {
  if (cross_layer.empty()) return std::nullopt;
  if (absl::ascii_isalpha(static_cast<unsigned char>(cross_layer[0]))) {
    auto named = kvcache::NamedPlan(cross_layer, shape);
    if (named.ok()) return named;
    return InvalidArgument("cross-layer: ", named.status().message());
  }
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson("cross-layer", cross_layer));
  return kvcache::ParsePlan(json, shape);
}

// Config, checkpoint and plan of a directory, nothing on a backend yet.
struct OpenedModel {
  ModelConfig config;
  std::unique_ptr<TensorSource> tensors;
  kvcache::SharingPlan plan;
};

absl::StatusOr<OpenedModel> OpenModel(const std::filesystem::path& dir, const std::string& shape,
                                      const std::string& cross_layer) {
  ASSIGN_OR_RETURN(auto config, shape.empty() ? LoadModelConfig(dir) : NamedShape(shape));
  std::unique_ptr<TensorSource> tensors;
  if (shape.empty()) {
    ASSIGN_OR_RETURN(auto checkpoint, Checkpoint::Open(dir));
    tensors = std::move(checkpoint);
  } else {
    tensors = std::make_unique<RandomTensors>(config);
  }
  RETURN_IF_ERROR(
      CheckTensorNames(dir.string(), *tensors, config.architecture, config.attention.num_layers));
  ASSIGN_OR_RETURN(auto plan_override, ParseOverride(cross_layer, config.attention));
  ASSIGN_OR_RETURN(auto plan, ResolvePlan(config, *tensors, plan_override));
  return OpenedModel{std::move(config), std::move(tensors), std::move(plan)};
}

// Default dtype of a checkpoint's weights: its own, except that f16 becomes f32, which holds it
// exactly, if the backend (null: none) has no f16.
DType AutomaticDType(DType checkpoint, const kernels::Backend* backend) {
  if (checkpoint != DType::kF16) return checkpoint;
  const bool has_f16 = backend != nullptr && backend->CheckWeights(DType::kF16).ok() &&
                       backend->CheckCache(DType::kF16, DType::kF16).ok();
  return has_f16 ? DType::kF16 : DType::kF32;
}

ModelInfo Describe(const EngineOptions& options, const LoadedModel& model, DType dtype,
                   PlanReport plan) {
  ModelInfo info;
  info.name = !options.name.empty()    ? options.name
              : !options.shape.empty() ? options.shape
                                       : ModelNameOf(options.model_dir);
  info.architecture = model.config.architecture;
  info.device = model.backend->Describe();
  info.dtype = kernels::DTypeName(dtype);
  info.parameters = model.weights->parameters;
  info.weight_bytes = model.weights->bytes;
  info.vocab_size = model.config.vocab_size;
  info.hidden_size = model.config.hidden_size;
  info.max_positions = model.config.max_positions;
  info.cache_tokens = model.cache->capacity_tokens();
  info.block_tokens = options.block_tokens;
  info.max_batch_tokens = options.max_batch_tokens;
  info.max_prefill_chunk = options.max_prefill_chunk;
  info.cache_bytes = model.cache->arena_bytes();
  info.eos_ids = model.config.eos_ids;
  if (options.generation_config) info.defaults = model.config.defaults;
  info.unused_tensors = model.weights->unused;
  info.unused_bytes = model.weights->unused_bytes;
  info.plan = std::move(plan);
  return info;
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const EngineOptions& given,
                                      std::unique_ptr<kernels::Backend> backend) {
  EngineOptions options = given;
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(auto opened, OpenModel(options.model_dir, options.shape, options.cross_layer));
  if (backend == nullptr) {
    ASSIGN_OR_RETURN(auto made,
                     kernels::CreateBackend({.device = options.device,
                                             .threads = options.threads,
                                             .pin_threads = options.pin_threads,
                                             .batch_invariant = options.batch_invariant}));
    backend = std::move(made);
  }
  for (int32_t* tokens : {&options.max_batch_tokens, &options.max_prefill_chunk}) {
    if (*tokens == 0) *tokens = backend->StepTokens();
  }
  const DType checkpoint = AutomaticDType(opened.config.dtype, backend.get());
  ASSIGN_OR_RETURN(const auto dtype, ParseWeightDType(options.weights, checkpoint));
  // Weights in 8 bits alone do not make the cache 8 bits: cache-dtype must ask for it.
  ASSIGN_OR_RETURN(
      const auto cache_dtypes,
      ParseCacheDTypes(options.cache_dtype, kernels::HasScale(dtype) ? checkpoint : dtype));

  LoadedModel model;
  model.config = std::move(opened.config);
  model.plan = std::move(opened.plan);
  model.backend = std::move(backend);
  RETURN_IF_ERROR(model.backend->CheckWeights(dtype));
  RETURN_IF_ERROR(model.backend->CheckCache(cache_dtypes.keys, cache_dtypes.values));
  const std::optional<kernels::DeviceMemory> memory = model.backend->device_memory();
  if (options.memory_share > 0 && !memory) {
    return InvalidArgument("memory-share: ", model.backend->Describe(),
                           ", has no memory of its own; cache-bytes is for it");
  }
  const DecoderLayout layout = LayoutOf(model.config, model.plan);
  const StepNeed steps = NeedOfSteps(model.config, layout, options, *model.backend);
  if (!memory) {  // beyond the cgroup's limit the process would be killed, much later
    RETURN_IF_ERROR(CheckMemory({.weights = NeedOfWeights(model.config, model.plan, dtype),
                                 .cache = options.cache_bytes,
                                 .steps = steps},
                                options.memory_limit > 0 ? options.memory_limit : MemoryLimit()));
  }
  ASSIGN_OR_RETURN(auto weights, LoadWeights(model.config, model.plan, *opened.tensors, dtype,
                                             model.backend.get()));
  model.weights = std::make_unique<Weights>(std::move(weights));
  PlanReport report = MakePlanReport(model.plan, cache_dtypes, options.score_reuse);
  ASSIGN_OR_RETURN(
      auto decoder,
      Decoder::Create(model.config, model.plan, layout,
                      kvcache::PlaneMap(model.plan, cache_dtypes, options.block_tokens),
                      model.weights.get(), model.backend.get(), options.max_batch_tokens));
  model.decoder = std::move(decoder);
  absl::StatusOr<size_t> cache_bytes = options.cache_bytes;
  if (options.memory_share > 0) {
    cache_bytes =
        CacheBytes(options.memory_share, *memory, *model.backend->device_memory(), steps.growth);
    if (!cache_bytes.ok()) return cache_bytes.status();
  }
  ASSIGN_OR_RETURN(auto cache,
                   kvcache::CacheManager::Create(model.backend.get(), model.plan,
                                                 {.cache_bytes = *cache_bytes,
                                                  .block_tokens = options.block_tokens,
                                                  .dtypes = cache_dtypes,
                                                  .store_scores = report.stores_scores}));
  model.cache = std::move(cache);
  model.info = Describe(options, model, dtype, std::move(report));
  return model;
}

absl::StatusOr<PlanReport> ExplainPlan(const std::filesystem::path& model_dir,
                                       const std::string& cross_layer,
                                       const std::string& cache_dtype, ScoreReuse score_reuse) {
  ASSIGN_OR_RETURN(auto opened, OpenModel(model_dir, /*shape=*/"", cross_layer));
  ASSIGN_OR_RETURN(
      const auto dtypes,
      ParseCacheDTypes(cache_dtype, AutomaticDType(opened.config.dtype, /*backend=*/nullptr)));
  return MakePlanReport(opened.plan, dtypes, score_reuse);
}

}  // namespace strata::engine
