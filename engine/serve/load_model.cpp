#include "engine/serve/load_model.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/base/json_file.h"
#include "engine/model/architectures.h"
#include "engine/model/formats.h"
#include "engine/model/resolve_plan.h"
#include "engine/model/tensors_of.h"
#include "engine/serve/memory_need.h"
#include "kvcache/base/errors.h"
#include "kvcache/plan/plan_parser.h"
#include "kvcache/plan/plan_presets.h"

namespace strata::engine {
namespace {

using kernels::ElementType;

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

// A model before anything of it is on a backend.
struct ReadModel {
  ModelSpec spec;
  std::unique_ptr<TensorSource> tensors;
  kvcache::SharingPlan plan;
};

absl::StatusOr<ReadModel> Read(const ModelSource& source, const std::string& cross_layer) {
  ReadModel model;
  ASSIGN_OR_RETURN(model.spec, ReadModelSpec(source));
  ASSIGN_OR_RETURN(model.tensors, source.OpenTensors());
  RETURN_IF_ERROR(CheckTensorNames(source.place(), *model.tensors, model.spec));
  ASSIGN_OR_RETURN(const auto plan_override, ParseOverride(cross_layer, model.spec.shape()));
  ASSIGN_OR_RETURN(model.plan, ResolvePlan(model.spec, *model.tensors, plan_override));
  return model;
}

absl::StatusOr<std::unique_ptr<kernels::Backend>> MakeBackend(const EngineOptions& options) {
  return kernels::CreateBackend({.device = options.device,
                                 .threads = options.threads,
                                 .pin_threads = options.pin_threads,
                                 .batch_invariant = options.batch_invariant});
}

// The type that keeps a checkpoint's weights: its own, except that f16 becomes f32, which holds it
// exactly, if the backend (null: none) has no f16.
ElementType TypeToKeep(ElementType stored, const kernels::Backend* backend) {
  if (stored != ElementType::kF16) return stored;
  const bool has_f16 =
      backend != nullptr && backend->CheckWeights(kernels::MatrixFormat::kF16).ok() &&
      backend->CheckCache(kernels::PlaneFormat::kF16, kernels::PlaneFormat::kF16).ok();
  return has_f16 ? ElementType::kF16 : ElementType::kF32;
}

struct Formats {
  kernels::MatrixFormat weights;
  kvcache::CacheFormats cache;
};

absl::StatusOr<Formats> ChooseFormats(const EngineOptions& options, ElementType stored,
                                      const kernels::Backend& backend) {
  const ElementType kept = TypeToKeep(stored, &backend);
  Formats formats;
  ASSIGN_OR_RETURN(formats.weights,
                   ParseMatrixFormat(options.weights, kernels::MatrixFormatOf(kept)));
  // Weights in 8 bits alone do not make the cache 8 bits: cache-dtype must ask for it.
  const kernels::PlaneFormat automatic = kernels::HasScale(formats.weights)
                                             ? kernels::PlaneFormatOf(kept)
                                             : kernels::PlaneFormatOf(formats.weights);
  ASSIGN_OR_RETURN(formats.cache, ParseCacheFormats(options.cache_dtype, automatic));
  RETURN_IF_ERROR(backend.CheckWeights(formats.weights));
  RETURN_IF_ERROR(backend.CheckCache(formats.cache.keys, formats.cache.values));
  return formats;
}

// On the CPU, beyond the cgroup's limit the process would be killed, much later.
absl::Status CheckFits(const EngineOptions& options, const TensorList& tensors,
                       kernels::MatrixFormat weights, const StepNeed& steps) {
  return CheckMemory(
      {.weights = NeedOfWeights(tensors, weights), .cache = options.cache_bytes, .steps = steps},
      options.memory_limit > 0 ? options.memory_limit : MemoryLimit());
}

ModelInfo Describe(const EngineOptions& options, const LoadedModel& model,
                   kernels::MatrixFormat weights, PlanReport plan) {
  ModelInfo info;
  info.name = options.name.empty() ? options.source->name() : options.name;
  info.architecture = model.spec.architecture;
  info.device = model.backend->Describe();
  info.dtype = kernels::FormatName(weights);
  info.parameters = model.weights->parameters;
  info.weight_bytes = model.weights->bytes;
  info.vocab_size = model.spec.vocab_size;
  info.hidden_size = model.spec.hidden_size;
  info.max_positions = model.spec.max_positions;
  info.cache_tokens = model.cache->capacity_tokens();
  info.block_tokens = options.block_tokens;
  info.max_batch_tokens = options.max_batch_tokens;
  info.max_prefill_chunk = options.max_prefill_chunk;
  info.cache_bytes = model.cache->arena_bytes();
  info.eos_ids = model.spec.eos_ids;
  if (options.generation_config) info.defaults = model.spec.defaults;
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
  if (options.source == nullptr) {
    ASSIGN_OR_RETURN(options.source, OpenModel(options.model_dir, options.shape));
  }
  ASSIGN_OR_RETURN(ReadModel read, Read(*options.source, options.cross_layer));
  LoadedModel model;
  model.spec = std::move(read.spec);
  model.plan = std::move(read.plan);
  model.backend = std::move(backend);
  if (model.backend == nullptr) {
    ASSIGN_OR_RETURN(model.backend, MakeBackend(options));
  }
  for (int32_t* tokens : {&options.max_batch_tokens, &options.max_prefill_chunk}) {
    if (*tokens == 0) *tokens = model.backend->StepTokens();
  }
  ASSIGN_OR_RETURN(const Formats formats, ChooseFormats(options, model.spec.dtype, *model.backend));

  const std::optional<kernels::DeviceMemory> memory = model.backend->device_memory();
  if (options.memory_share > 0 && !memory) {
    return InvalidArgument("memory-share: ", model.backend->Describe(),
                           ", has no memory of its own; cache-bytes is for it");
  }
  const TensorList tensors = TensorsOf(model.spec, model.plan);
  const DecoderLayout layout = LayoutOf(model.spec, model.plan);
  const StepNeed steps = NeedOfSteps(model.spec, layout, options, *model.backend);
  if (!memory) {
    RETURN_IF_ERROR(CheckFits(options, tensors, formats.weights, steps));
  }
  ASSIGN_OR_RETURN(Weights weights, LoadWeights(model.spec, tensors, *read.tensors, formats.weights,
                                                model.backend.get()));
  model.weights = std::make_unique<Weights>(std::move(weights));

  const kvcache::PlaneMap planes(model.plan, formats.cache, options.block_tokens);
  ASSIGN_OR_RETURN(model.decoder,
                   Decoder::Create(model.spec, model.plan, layout, planes, model.weights.get(),
                                   model.backend.get(), options.max_batch_tokens));
  size_t cache_bytes = options.cache_bytes;
  if (options.memory_share > 0) {
    ASSIGN_OR_RETURN(cache_bytes, CacheBytes(options.memory_share, *memory,
                                             *model.backend->device_memory(), steps.growth));
  }
  PlanReport report = MakePlanReport(model.plan, planes, options.score_reuse);
  ASSIGN_OR_RETURN(model.cache,
                   kvcache::CacheManager::Create(
                       model.backend.get(), planes,
                       {.cache_bytes = cache_bytes, .store_scores = report.stores_scores}));
  model.info = Describe(options, model, formats.weights, std::move(report));
  return model;
}

absl::StatusOr<PlanReport> ExplainPlan(const std::filesystem::path& model_dir,
                                       const std::string& cross_layer,
                                       const std::string& cache_dtype, ScoreReuse score_reuse) {
  ASSIGN_OR_RETURN(const auto source, OpenModel(model_dir));
  ASSIGN_OR_RETURN(const ReadModel model, Read(*source, cross_layer));
  ASSIGN_OR_RETURN(const auto formats,
                   ParseCacheFormats(cache_dtype, kernels::PlaneFormatOf(TypeToKeep(
                                                      model.spec.dtype, /*backend=*/nullptr))));
  return MakePlanReport(model.plan, kvcache::PlaneMap(model.plan, formats, /*block_tokens=*/1),
                        score_reuse);
}

}  // namespace strata::engine
