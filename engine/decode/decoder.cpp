#include "engine/decode/decoder.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "engine/decode/decoder_builder.h"
#include "kernels/check.h"
#include "kernels/status_macros.h"

namespace strata::engine {

using kernels::Backend;
using kernels::Rows;

namespace {

Rows First(Rows rows, int64_t count) {
  rows.num_rows = count;
  return rows;
}

}  // namespace

Decoder::Decoder(const ModelSpec& spec, const Weights* weights, Backend* backend, int32_t max_rows)
    : spec_(spec), weights_(weights), backend_(backend), max_rows_(max_rows) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(
    const ModelSpec& spec, const kvcache::SharingPlan& plan, const DecoderLayout& layout,
    const kvcache::PlaneMap& planes, const Weights* weights, Backend* backend, int32_t max_rows) {
  std::unique_ptr<Decoder> decoder(new Decoder(spec, weights, backend, max_rows));
  RETURN_IF_ERROR(Builder(plan, layout, planes, decoder.get()).Build());
  return decoder;
}

absl::Status Decoder::Start(const StepBatch& batch, const kernels::PagedArena& cache) {
  STRATA_CHECK(batch.num_rows() >= 1 && batch.num_rows() <= max_rows_, "a step fits the scratch");
  RETURN_IF_ERROR(PrepareProbes(batch));
  output_rows_.clear();
  for (const StepBatch::Output& output : batch.outputs) output_rows_.push_back(output.row);

  const bool decodes = batch.num_rows() == std::ssize(batch.sequences);
  backend_->BeginStep(/*repeats=*/decodes);
  const StepBatch& whole = decodes ? Padded(batch) : batch;
  const StepBatch* rows = &whole;
  backend_->Embed(*weights_->embedding, whole.token_ids, First(residual_, whole.num_rows()));
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    Project(*rows, cache, layer);
    if (layer == last_writer_) rows = &KeepWantedRows(whole);
    const int64_t num_rows = rows->num_rows();
    if (num_rows == 0) break;
    Attend(*rows, cache, layer);
    backend_->MatMul(*weights_->layers[layer].output, First(attended_, num_rows), {},
                     First(residual_, num_rows), Backend::Store::kAdd);
    FeedForward(num_rows, layer);
  }
  RETURN_IF_ERROR(ComputeLogits(batch));
  if (batch.num_probabilities > 0) {
    backend_->CopyToHost(std::as_writable_bytes(std::span(host_probabilities_)),
                         probabilities_->data());
  }
  return absl::OkStatus();
}

absl::Status Decoder::Finish(const StepBatch& batch) {
  chosen_.resize(batch.choices.size());
  return batch.choices.empty() ? backend_->Synchronize() : backend_->TakeChosen(chosen_);
}

// The batch with padding rows up to the backend's PaddedRows, if there is scratch for them.
const StepBatch& Decoder::Padded(const StepBatch& batch) {
  const int64_t rows = std::min(backend_->PaddedRows(batch.num_rows()), max_rows_);
  if (rows <= batch.num_rows() || std::ssize(output_rows_) < batch.num_rows()) return batch;
  const auto count = static_cast<size_t>(rows);
  padded_.token_ids = batch.token_ids;
  padded_.token_ids.resize(count, 0);
  padded_.positions = batch.positions;
  padded_.positions.resize(count, 0);
  padded_.slots.clear();
  for (auto slots = batch.slots.begin(); slots != batch.slots.end(); slots += batch.num_rows()) {
    padded_.slots.insert(padded_.slots.end(), slots, slots + batch.num_rows());
    padded_.slots.insert(padded_.slots.end(), static_cast<size_t>(rows - batch.num_rows()),
                         kernels::kNoSlot);
  }
  padded_.sequences = batch.sequences;
  output_rows_.assign(all_rows_.begin(), all_rows_.begin() + rows);
  padded_.probes = batch.probes;
  return padded_;
}

// Moves the outputs' rows of all buffers that later layers read to the front of the buffers.
// Returns the batch of these rows, without slots: later layers write nothing to the cache.
const StepBatch& Decoder::KeepWantedRows(const StepBatch& batch) {
  const auto count = std::ssize(output_rows_);
  if (count == batch.num_rows()) return batch;
  for (const Rows& rows : kept_rows_) MoveToFront(First(rows, batch.num_rows()), output_rows_);
  wanted_.Clear();
  auto wanted = output_rows_.cbegin();
  for (const kernels::SequenceRows& sequence : batch.sequences) {
    const int64_t end = sequence.first_row + sequence.num_rows;
    for (; wanted != output_rows_.cend() && *wanted < end; ++wanted) {
      const auto row = static_cast<size_t>(*wanted);
      const bool follows =
          wanted_.num_rows() > 0 && *wanted > sequence.first_row && wanted[-1] == *wanted - 1;
      if (follows) {
        ++wanted_.sequences.back().num_rows;
      } else {
        kernels::SequenceRows next = sequence;
        next.first_row = wanted_.num_rows();
        next.num_rows = 1;
        next.first_position = batch.positions[row];
        wanted_.sequences.push_back(next);
      }
      wanted_.token_ids.push_back(batch.token_ids[row]);
      wanted_.positions.push_back(batch.positions[row]);
    }
  }
  output_rows_.assign(all_rows_.begin(), all_rows_.begin() + count);
  wanted_.probes = batch.probes;
  for (StepBatch::Probe& probe : wanted_.probes) {
    // A probe's row is its sequence's last row, so it is in the sequence's last run.
    const auto after = std::find_if(
        wanted_.sequences.begin(), wanted_.sequences.end(),
        [&](const kernels::SequenceRows& rows) { return rows.first_row > probe.output; });
    probe.sequence = static_cast<int32_t>(after - wanted_.sequences.begin()) - 1;
  }
  return wanted_;
}

// Decode rows are already at the front, in a step of decodes alone and before chunks without
// outputs, so no copy is needed.
void Decoder::MoveToFront(Rows x, std::span<const int32_t> rows) {
  if (std::ranges::equal(rows, std::span(all_rows_).first(rows.size()))) return;
  backend_->GatherRows(x, rows, First(x, std::ssize(rows)));
}

void Decoder::Attend(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer) {
  const Layer& plan = layers_[layer];
  if (!plan.owners.empty()) backend_->Attention(cache, batch.sequences, plan.owners);
  if (!plan.reusers.empty()) backend_->Attention(cache, batch.sequences, plan.reusers);
  const int64_t num_rows = batch.num_rows();
  for (const Copy& copy : plan.copies) {
    backend_->GatherRows(First(copy.from, num_rows),
                         std::span(all_rows_).first(static_cast<size_t>(num_rows)),
                         First(copy.to, num_rows));
  }
  if (!batch.probes.empty()) RunProbes(batch, cache, layer);
}

absl::Status Decoder::PrepareProbes(const StepBatch& batch) {
  const size_t bytes = batch.num_probabilities * sizeof(float);
  host_probabilities_.resize(batch.num_probabilities);
  if (bytes == 0 || (probabilities_ != nullptr && probabilities_->size() >= bytes)) {
    return absl::OkStatus();
  }
  probabilities_.reset();
  ASSIGN_OR_RETURN(auto grown, backend_->Allocate(bytes));
  probabilities_ = std::move(grown);
  return absl::OkStatus();
}

void Decoder::RunProbes(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer) {
  const Layer& plan = layers_[layer];
  for (const StepBatch::Probe& probe : batch.probes) {
    if (static_cast<size_t>(probe.layer) != layer) continue;
    const auto owner = plan.places_of_owners.find(probe.head);
    STRATA_CHECK(owner != plan.places_of_owners.end(), "the head computes its scores");
    const kernels::PlaneGroup& group = plan.owners[owner->second.group];
    const int32_t row = output_rows_[static_cast<size_t>(probe.output)];
    kernels::SequenceRows sequence = batch.sequences[static_cast<size_t>(probe.sequence)];
    sequence.first_row = row;
    sequence.num_rows = 1;
    sequence.first_position = batch.positions[static_cast<size_t>(row)];
    backend_->AttentionProbabilities(cache, sequence, group, group.heads[owner->second.index],
                                     probabilities_->floats() + probe.offset);
  }
}

// Computes the layer's queries, keys and values, and writes them to the cache.
void Decoder::Project(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer) {
  const LayerWeights& weights = weights_->layers[layer];
  const Layer& plan = layers_[layer];
  if (weights.qkv == nullptr) return;
  const int64_t num_rows = batch.num_rows();
  backend_->MatMul(*weights.qkv, First(residual_, num_rows), Norm(weights.input_norm),
                   First(plan.projected, num_rows), Backend::Store::kSet);
  backend_->PrepareAttention(cache, {.num_rows = num_rows,
                                     .ways = plan.ways,
                                     .positions = batch.positions,
                                     .slots = batch.slots});
}

void Decoder::FeedForward(int64_t num_rows, size_t layer) {
  const LayerWeights& weights = weights_->layers[layer];
  const Rows residual = First(residual_, num_rows);
  const Rows activated = First(activated_, num_rows);
  backend_->GatedMatMul(*weights.gate_up, residual, Norm(weights.post_attention_norm), activated);
  backend_->MatMul(*weights.down, activated, {}, residual, Backend::Store::kAdd);
}

kernels::RmsNorm Decoder::Norm(const std::unique_ptr<kernels::Buffer>& weight) const {
  return {.weight = weight->floats(), .epsilon = spec_.norm_epsilon};
}

// Computes the logits of the outputs' rows and of padding, and has the backend choose from them.
absl::Status Decoder::ComputeLogits(const StepBatch& batch) {
  read_logits_ = {};
  if (output_rows_.empty()) return absl::OkStatus();
  const auto count = std::ssize(output_rows_);
  const size_t bytes =
      output_rows_.size() * static_cast<size_t>(LogitsStride(spec_.vocab_size)) * sizeof(float);
  if (logits_ == nullptr || logits_->size() < bytes) {
    logits_.reset();
    ASSIGN_OR_RETURN(auto grown, backend_->Allocate(bytes));
    logits_ = std::move(grown);
  }
  MoveToFront(residual_, output_rows_);
  const int64_t vocab = spec_.vocab_size;
  const int64_t stride = logits_->host_readable() ? vocab : LogitsStride(vocab);
  const Rows logits = {logits_->floats(), count, vocab, stride};
  backend_->MatMul(weights_->lm_head(), First(residual_, count), Norm(weights_->final_norm), logits,
                   Backend::Store::kSet);
  if (batch.reads_logits) ReadLogits(First(logits, std::ssize(batch.outputs)));
  backend_->ChooseTokens(logits, batch.choices);
  return absl::OkStatus();
}

// Copies the logits to the host, without a gap between rows, if it cannot read them in place.
void Decoder::ReadLogits(Rows logits) {
  const auto count = static_cast<size_t>(logits.num_rows * logits.num_cols);
  if (logits_->host_readable()) {
    read_logits_ = {logits.data, count};
    return;
  }
  host_logits_.resize(static_cast<size_t>(logits.num_rows * logits.stride));
  backend_->CopyToHost(std::as_writable_bytes(std::span(host_logits_)), logits_->data());
  for (int64_t i = 1; i < logits.num_rows && logits.stride != logits.num_cols; ++i) {
    std::copy_n(host_logits_.data() + i * logits.stride, logits.num_cols,
                host_logits_.data() + i * logits.num_cols);
  }
  read_logits_ = std::span(host_logits_).first(count);
}

}  // namespace strata::engine
