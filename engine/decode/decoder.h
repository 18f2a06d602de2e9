#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/decode/decoder_layout.h"
#include "engine/decode/step_batch.h"
#include "engine/model/model_spec.h"
#include "engine/model/weights.h"
#include "kernels/backend.h"
#include "kvcache/plan/plane_map.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// One forward pass for every architecture: the sharing plan, resolved at Create into the heads of
// each layer, decides which queries meet which planes.
//
// Reused scores (Reuse Transformers, arXiv 2110.06821: U = P_owner V) are *stored* for sequences
// with score blocks: the owner's attention writes its scores there, and the reusing heads read
// these scores and their own values. For all other sequences they are *routed*: the owner's rotated
// queries and log-sum-exp of the step are kept, and the reusing head runs attention with them over
// its own value plane. Both give the same probabilities, to the bit, without a T x T matrix. A head
// that shares scores and values with an earlier one takes its finished output.
//
// After the last layer that writes to the cache, only rows of outputs run.
//
// One thread. Scratch is allocated once, for `max_rows` rows.
class Decoder {
 public:
  // `layout`: LayoutOf the plan. `backend` and `weights` outlive the decoder. RESOURCE_EXHAUSTED if
  // there is no memory for scratch.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(
      const ModelSpec& spec, const kvcache::SharingPlan& plan, const DecoderLayout& layout,
      const kvcache::PlaneMap& planes, const Weights* weights, kernels::Backend* backend,
      int32_t max_rows);

  // Writes the rows' planes to the cache, computes the logits of batch.outputs and has the backend
  // make batch.choices from them. Up to kMostUntaken batches with choices may be started
  // before the first is finished; a batch without choices must be finished before the next Start().
  // REQUIRES: 1 <= num_rows <= max_rows.
  absl::Status Start(const StepBatch& batch, const kernels::PagedArena& cache);
  // Waits for the oldest batch started. An error is the device's.
  absl::Status Finish(const StepBatch& batch);

  // The tokens chosen for the batch that was finished last, [choices].
  std::span<const kernels::ChosenToken> chosen() const { return chosen_; }
  // The logits of the last batch started, if it reads them, [outputs, vocab], until the next Start.
  std::span<const float> logits() const { return read_logits_; }
  // The probabilities for the last batch's probes, until the next Start.
  std::span<const float> probabilities() const { return host_probabilities_; }

 private:
  struct Copy {
    kernels::Rows from;  // [max_rows, d]
    kernels::Rows to;
  };
  // A head of Layer::owners.
  struct HeadPlace {
    size_t group = 0;
    size_t index = 0;  // in the group
  };
  // A layer's part of the plan with every pointer and offset in place.
  struct Layer {
    kernels::Rows projected;  // [max_rows, (q + k + v heads) * d], living heads only
    std::vector<kernels::HeadWay> ways;
    std::vector<kernels::PlaneGroup> owners;        // heads that compute their softmax
    std::map<int32_t, HeadPlace> places_of_owners;  // by head
    std::vector<kernels::PlaneGroup> reusers;       // heads that apply another's probabilities
    std::vector<Copy> copies;  // after attention, in order: outputs taken, then outputs kept
  };
  class Builder;  // plan -> layers_

  Decoder(const ModelSpec& spec, const Weights* weights, kernels::Backend* backend,
          int32_t max_rows);
  void Project(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer);
  void Attend(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer);
  void FeedForward(int64_t num_rows, size_t layer);
  kernels::RmsNorm Norm(const std::unique_ptr<kernels::Buffer>& weight) const;
  const StepBatch& Padded(const StepBatch& batch);
  const StepBatch& KeepWantedRows(const StepBatch& batch);
  void MoveToFront(kernels::Rows x, std::span<const int32_t> rows);
  absl::Status PrepareProbes(const StepBatch& batch);
  void RunProbes(const StepBatch& batch, const kernels::PagedArena& cache, size_t layer);
  absl::Status ComputeLogits(const StepBatch& batch);
  void ReadLogits(kernels::Rows logits);

  const ModelSpec spec_;
  const Weights* const weights_;
  kernels::Backend* const backend_;
  const int64_t max_rows_;

  std::vector<std::unique_ptr<kernels::Buffer>> buffers_;  // memory for everything below
  std::vector<Layer> layers_;
  const float* rope_table_ = nullptr;        // [max_positions, d]
  kernels::Rows residual_;                   // [max_rows, hidden]
  kernels::Rows attended_;                   // [max_rows, H * d]
  kernels::Rows activated_;                  // [max_rows, intermediate]
  size_t last_writer_ = 0;                   // the last layer that writes to the cache
  std::vector<kernels::Rows> kept_rows_;     // buffers that layers after last_writer_ still read
  std::vector<int32_t> all_rows_;            // 0, 1, ... max_rows - 1
  std::vector<int32_t> output_rows_;         // current rows of the outputs, and of padding
  StepBatch padded_;                         // a step of decodes with padding rows
  StepBatch wanted_;                         // the rows of a step's outputs
  std::unique_ptr<kernels::Buffer> logits_;  // [most rows asked for so far, vocab]
  std::vector<float> host_logits_;
  std::span<const float> read_logits_;  // logits_ or host_logits_
  std::vector<kernels::ChosenToken> chosen_;
  std::unique_ptr<kernels::Buffer> probabilities_;  // [most asked for so far]
  std::vector<float> host_probabilities_;
};

}  // namespace strata::engine
