#include "engine/decoder.h"

#include <utility>

#include "engine/decoder_builder.h"
#include "kernels/check.h"

namespace strata::engine {

using kernels::Backend;
using kernels::Rows;

namespace {

Rows First(Rows rows, int64_t count) {
  rows.num_rows = count;
  return rows;
}

}  // namespace

Decoder::Decoder(const ModelConfig& config, const Weights* weights, Backend* backend,
                 int32_t max_rows)
    : config_(config), weights_(weights), backend_(backend), max_rows_(max_rows) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(const ModelConfig& config,
                                                         const kvcache::SharingPlan& plan,
                                                         const kvcache::PlaneMap& planes,
                                                         const Weights* weights, Backend* backend,
                                                         int32_t max_rows) {
  std::unique_ptr<Decoder> decoder(new Decoder(config, weights, backend, max_rows));
  if (absl::Status status = Builder(plan, planes, decoder.get()).Build(); !status.ok()) {
    return status;
  }
  return decoder;
}

absl::StatusOr<std::span<const float>> Decoder::Forward(const StepBatch& batch,
                                                        const kernels::PagedArena& cache) {
  const int64_t num_rows = batch.num_rows();
  STRATA_CHECK(num_rows >= 1 && num_rows <= max_rows_, "a step fits the scratch");
  const Rows residual = First(residual_, num_rows);

  backend_->Embed(*weights_->embedding, batch.token_ids, residual);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    Project(batch, cache, layer);
    const Layer& plan = layers_[layer];
    if (!plan.owners.empty()) backend_->Attention(cache, batch.sequences, plan.owners);
    if (!plan.reusers.empty()) backend_->Attention(cache, batch.sequences, plan.reusers);
    backend_->MatMul(*weights_->layers[layer].output, First(attended_, num_rows), residual,
                     Backend::Store::kAdd);
    FeedForward(num_rows, layer);
  }
  if (absl::Status status = ComputeLogits(batch.logit_rows); !status.ok()) return status;
  if (absl::Status status = backend_->Synchronize(); !status.ok()) return status;
  return std::span<const float>(host_logits_)
      .first(batch.logit_rows.size() * static_cast<size_t>(config_.vocab_size));
}

// The layer's queries, keys and values, and their way into the cache.
void Decoder::Project(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer) {
  const LayerWeights& weights = weights_->layers[layer];
  const Layer& plan = layers_[layer];
  if (weights.qkv == nullptr) return;
  const int64_t num_rows = batch.num_rows();
  const Rows normed = First(normed_, num_rows);
  const Rows projected = First(plan.projected, num_rows);

  backend_->RmsNorm(First(residual_, num_rows), weights.input_norm->floats(), config_.rms_norm_eps,
                    normed);
  backend_->MatMul(*weights.qkv, normed, projected, Backend::Store::kSet);
  if (plan.rotated_columns > 0) {
    backend_->Rope(projected.Columns(0, plan.rotated_columns), config_.attention.head_dim,
                   batch.positions, rope_table_);
  }
  for (const Mix& mix : plan.mixes) {
    backend_->MixValues(First(mix.values, num_rows), First(mix.first_values, num_rows), mix.own,
                        mix.first);
  }
  if (!plan.writes.empty()) backend_->WritePlanes(cache, batch.slots, plan.writes);
}

void Decoder::FeedForward(int64_t num_rows, size_t layer) {
  const LayerWeights& weights = weights_->layers[layer];
  const Rows residual = First(residual_, num_rows);
  const Rows normed = First(normed_, num_rows);
  const Rows gate_up = First(gate_up_, num_rows);
  const Rows activated = First(activated_, num_rows);
  backend_->RmsNorm(residual, weights.post_attention_norm->floats(), config_.rms_norm_eps, normed);
  backend_->MatMul(*weights.gate_up, normed, gate_up, Backend::Store::kSet);
  backend_->SwiGlu(gate_up, activated);
  backend_->MatMul(*weights.down, activated, residual, Backend::Store::kAdd);
}

// Leaves [rows, vocab] in host_logits_. The residual stream is no longer needed and serves as
// scratch.
absl::Status Decoder::ComputeLogits(std::span<const int32_t> rows) {
  if (rows.empty()) return absl::OkStatus();
  const auto count = static_cast<int64_t>(rows.size());
  const size_t bytes = rows.size() * static_cast<size_t>(config_.vocab_size) * sizeof(float);
  if (logits_ == nullptr || logits_->size() < bytes) {
    logits_.reset();
    auto grown = backend_->Allocate(bytes);
    if (!grown.ok()) return grown.status();
    logits_ = *std::move(grown);
    host_logits_.resize(bytes / sizeof(float));
  }
  const Rows wanted = First(normed_, count);
  const Rows normed = First(residual_, count);
  backend_->GatherRows(residual_, rows, wanted);
  backend_->RmsNorm(wanted, weights_->final_norm->floats(), config_.rms_norm_eps, normed);
  backend_->MatMul(weights_->lm_head(), normed,
                   Rows{logits_->floats(), count, config_.vocab_size, config_.vocab_size},
                   Backend::Store::kSet);
  backend_->CopyToHost(std::as_writable_bytes(std::span(host_logits_)).first(bytes),
                       logits_->data());
  return absl::OkStatus();
}

}  // namespace strata::engine
