#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace strata::engine {

// One step's work, flattened: row i is one token of one sequence. Prefill and decode are the same
// thing, a range of positions of a sequence.
//
//   Scheduler::Next ─ StepPlan ─► Flatten ─ StepBatch ─► Decoder::Start ─ logits ─► ChooseTokens
//                                 (host, engine thread)      (backend)
struct StepBatch {
  // Attention probabilities that are wanted for a row with wanted logits.
  struct Probe {
    int32_t sequence = 0;  // of `sequences`
    int32_t logit = 0;     // of `logit_rows`: the row
    int32_t layer = 0;     // a query head that computes its scores
    int32_t head = 0;
    size_t offset = 0;  // into Decoder::probabilities(): one for each position up to the row's own
  };

  std::vector<int32_t> token_ids;                // [num_rows], or as Backend::Embed has them
  std::vector<int32_t> positions;                // [num_rows] in the row's own sequence
  std::vector<int64_t> slots;                    // [num_rows] cache slot the row is written to
  std::vector<kernels::SequenceRows> sequences;  // rows of each sequence, in order, no gaps
  std::vector<int32_t> logit_rows;               // rows whose logits are wanted, ascending
  std::vector<kernels::TokenChoice> choices;     // at least one of each row of logits, in order
  bool reads_logits = false;                     // the host reads the logits as well
  std::vector<Probe> probes;
  size_t num_probabilities = 0;  // of all probes together

  // An empty list for the biases of a choice. The list stays the same one until it is kept.
  std::vector<kernels::TokenBias>* NextBiases() {
    if (num_biases_ == biases_.size()) biases_.emplace_back();
    biases_[num_biases_].clear();
    return &biases_[num_biases_];
  }
  void KeepBiases() { ++num_biases_; }

  int64_t num_rows() const { return static_cast<int64_t>(token_ids.size()); }
  void Clear() {
    token_ids.clear();
    positions.clear();
    slots.clear();
    sequences.clear();
    logit_rows.clear();
    choices.clear();
    reads_logits = false;
    num_biases_ = 0;
    probes.clear();
    num_probabilities = 0;
  }

 private:
  // Lists keep their memory from step to step.
  std::vector<std::vector<kernels::TokenBias>> biases_;
  size_t num_biases_ = 0;
};

}  // namespace strata::engine
