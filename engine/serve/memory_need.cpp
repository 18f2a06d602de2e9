#include "engine/serve/memory_need.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/decode/decoder_layout.h"
#include "engine/serve/request_check.h"
#include "engine/serve/scheduler.h"
#include "kernels/cgroup.h"

namespace strata::engine {
namespace {

std::string Text(size_t bytes) {
  constexpr double kMiB = 1 << 20;
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / kMiB);
}

}  // namespace

StepNeed NeedOfSteps(const ModelSpec& spec, const DecoderLayout& layout,
                     const EngineOptions& options, const kernels::Backend& backend) {
  const int64_t rows = options.max_batch_tokens;
  const int64_t context = spec.max_positions;
  const std::vector<int64_t>& columns = layout.row_columns;
  const int64_t gates_and_ups = 2 * int64_t{spec.feed_forward().width};
  // A request of more sequences than max-running runs alone.
  const int64_t sequences = std::max(options.max_running, kMaxSequences);
  const int64_t logit_rows = std::min(rows, sequences + kMostLogprobRows);
  const int64_t logits = logit_rows * LogitsStride(spec.vocab_size);
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
      .vocab_size = spec.vocab_size,
      .heads = spec.attention().num_query_heads,
      .head_dim = spec.attention().head_dim};
  return {.scratch = layout.Bytes(rows),
          .growth = static_cast<size_t>(logits) * sizeof(float) + backend.WorkingBytes(limits)};
}

size_t NeedOfWeights(const TensorList& tensors, kernels::MatrixFormat weights) {
  size_t bytes = 0;
  for (const TensorSpec& tensor : tensors) {
    if (!tensor.needed || !tensor.is_matrix()) continue;
    const std::vector<int64_t> shape = tensor.LivingShape();
    bytes += static_cast<size_t>(shape[0]) * kernels::RowBytes(weights, shape[1]);
  }
  return bytes;
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
