#include "engine/serve/memory_need.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/decode/decoder_layout.h"
#include "engine/serve/request_check.h"
#include "engine/serve/scheduler.h"
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

std::string Text(size_t bytes) {
  constexpr double kMiB = 1 << 20;
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / kMiB);
}

}  // namespace

StepNeed NeedOfSteps(const ModelConfig& config, const DecoderLayout& layout,
                     const EngineOptions& options, const kernels::Backend& backend) {
  const int64_t rows = options.max_batch_tokens;
  const int64_t context = config.max_positions;
  const std::vector<int64_t>& columns = layout.row_columns;
  const int64_t gates_and_ups = 2 * int64_t{config.intermediate_size};
  // A request of more sequences than max-running runs alone.
  const int64_t sequences = std::max(options.max_running, kMaxSequences);
  const int64_t logit_rows = std::min(rows, sequences + kMostLogprobRows);
  const int64_t logits = logit_rows * LogitsStride(config.vocab_size);
  const kernels::StepLimits limits = {
      .rows = rows,
      .logit_rows = logit_rows,
      .sequences = sequences,
      .context = context,
      .table_entries = (context + options.block_tokens - 1) / options.block_tokens,
      .inputs = std::max({columns[DecoderLayout::kResidual], columns[DecoderLayout::kAttended],
                          columns[DecoderLayout::kActivated]}),
      .outputs = std::max({columns[DecoderLayout::kResidual],
                           columns[DecoderLayout::kFirstProjections], gates_and_ups}),
      .vocab_size = config.vocab_size,
      .heads = config.attention.num_query_heads,
      .head_dim = config.attention.head_dim};
  return {.scratch = layout.Bytes(rows),
          .growth = static_cast<size_t>(logits) * sizeof(float) + backend.WorkingBytes(limits)};
}

size_t NeedOfWeights(const ModelConfig& config, const kvcache::SharingPlan& plan,
                     kernels::DType weights) {
  return static_cast<size_t>(MatrixElements(config, plan)) * kernels::DTypeSize(weights);
}

absl::Status CheckMemory(const MemoryNeed& need, size_t limit) {
  if (limit == 0 || need.total() <= limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "memory: weights %s + cache %s + workspace %s + program %s = %s, of which the limit, %s, is "
      "less; lower cache-bytes or max-batch-tokens, or take weights of fewer bits",
      Text(need.weights), Text(need.cache), Text(need.workspace()), Text(need.program),
      Text(need.total()), Text(limit)));
}

size_t MemoryLimit() {
  return static_cast<size_t>(kernels::CgroupMemoryLimit("/proc/self/cgroup", "/sys/fs/cgroup"));
}

}  // namespace strata::engine
