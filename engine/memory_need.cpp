#include "engine/memory_need.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"
#include "kernels/cpu/cgroup.h"

namespace strata::engine {
namespace {

// Elements of all matrices; a tied head is the embedding.
int64_t MatrixElements(const ModelConfig& config, const kvcache::SharingPlan& plan) {
  const kvcache::AttentionShape& shape = config.attention;
  const int64_t hidden = config.hidden_size;
  int64_t rows = int64_t{config.vocab_size} * (config.tied_embeddings ? 1 : 2);
  for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
    const size_t heads = plan.QueryHeads(layer).size() + plan.KeyHeads(layer).size() +
                         plan.ValueHeads(layer).size() + static_cast<size_t>(shape.num_query_heads);
    rows += static_cast<int64_t>(heads) * shape.head_dim + 3 * int64_t{config.intermediate_size};
  }
  return rows * hidden;
}

// f32 numbers of the largest step.
int64_t WorkspaceElements(const ModelConfig& config, const EngineOptions& options) {
  const kvcache::AttentionShape& shape = config.attention;
  const int64_t row = int64_t{config.hidden_size} + config.intermediate_size +
                      int64_t{2} * (shape.num_query_heads + shape.num_kv_heads) * shape.head_dim;
  const int64_t rows = options.max_batch_tokens;
  const int64_t logit_rows = std::min(options.max_batch_tokens, options.max_running);
  return rows * row + logit_rows * config.vocab_size +
         int64_t{config.max_positions} * shape.head_dim;
}

std::string Text(size_t bytes) {
  constexpr double kMiB = 1 << 20;
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / kMiB);
}

}  // namespace

MemoryNeed NeedOf(const ModelConfig& config, const kvcache::SharingPlan& plan,
                  kernels::DType weights, const EngineOptions& options) {
  return {
      .weights = static_cast<size_t>(MatrixElements(config, plan)) * kernels::DTypeSize(weights),
      .cache = options.cache_bytes,
      .workspace = static_cast<size_t>(WorkspaceElements(config, options)) * sizeof(float)};
}

absl::Status CheckMemory(const MemoryNeed& need, size_t limit) {
  if (limit == 0 || need.total() <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "memory: weights %s + cache %s + workspace %s + program %s = %s, of which the limit, %s, is "
      "less; lower cache-bytes or max-batch-tokens, or take weights of fewer bits",
      Text(need.weights), Text(need.cache), Text(need.workspace), Text(need.program),
      Text(need.total()), Text(limit)));
}

size_t MemoryLimit() {
  return static_cast<size_t>(kernels::CgroupMemoryLimit("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace strata::engine
