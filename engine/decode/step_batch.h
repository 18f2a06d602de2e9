#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "kernels/backend.h"

namespace strata::engine {

// One step's work, flattened: row i is one token of one sequence. Prefill and decode are the same
// thing, a range of positions of a sequence.
//
//   Scheduler::Next ─ StepPlan ─► Flatten ─ StepBatch ─► Decoder::Start ─ logits ─► ChooseTokens
//                                 (host, engine thread)      (backend)
struct StepBatch {
  // A row with logits, and what they are for. Flatten makes the list; decoder, choices and commit
  // read it.
  struct Output {
    enum class Purpose : uint8_t {
      kSample,         // the next token: a choice for each sequence that the range stands for
      kPromptLogprob,  // log-probabilities of the prompt's next token: one choice
    };
    int32_t range = 0;  // of the step's plan, and of `sequences`
    int32_t row = 0;
    int32_t position = 0;  // of the row in its sequence
    Purpose purpose = Purpose::kSample;
    size_t first_choice = 0;       // of `choices`: the output's begin here
    size_t first_probability = 0;  // of Decoder::probabilities(): the output's begin here
  };
  // Attention probabilities that are wanted for an output's row.
  struct Probe {
    int32_t sequence = 0;  // of `sequences`
    int32_t output = 0;    // of `outputs`
    int32_t layer = 0;     // a query head that computes its scores
    int32_t head = 0;
    size_t offset = 0;  // into Decoder::probabilities(): one for each position up to the row's own
  };

  std::vector<int32_t> token_ids;      // [num_rows], or as Backend::Embed has them
  std::vector<int32_t> positions;      // [num_rows] in the row's own sequence
  std::vector<int64_t> slots;          // [block groups][num_rows] cache slot the row is written to
  std::vector<const int32_t*> tables;  // [sequences][block groups], memory of block_tables
  std::vector<kernels::SequenceRows> sequences;  // rows of each sequence, in order, no gaps
  std::vector<Output> outputs;                   // one for each row with logits, rows ascending
  std::vector<kernels::TokenChoice> choices;     // of the outputs; TokenChoice::row is an output
  bool reads_logits = false;                     // the host reads the logits as well
  std::vector<Probe> probes;
  size_t num_probabilities = 0;  // of all probes together

  // Makes an output of the next row, which is the last sequence's.
  void AddOutput(int32_t position, Output::Purpose purpose) {
    outputs.push_back({.range = static_cast<int32_t>(sequences.size()) - 1,
                       .row = static_cast<int32_t>(num_rows()),
                       .position = position,
                       .purpose = purpose,
                       .first_choice = choices.size(),
                       .first_probability = num_probabilities});
  }
  // Makes a choice of the last output.
  void AddChoice(kernels::TokenChoice choice) {
    choice.row = std::ssize(outputs) - 1;
    choices.push_back(choice);
  }
  // An empty list for the biases of a choice. The list stays the same one until it is kept.
  std::vector<kernels::TokenBias>* NextBiases() {
    if (num_biases_ == biases_.size()) biases_.emplace_back();
    biases_[num_biases_].clear();
    return &biases_[num_biases_];
  }
  void KeepBiases() { ++num_biases_; }

  int64_t num_rows() const { return static_cast<int64_t>(token_ids.size()); }
  // Empties the batch, with room for `num_sequences`: pointers into `tables` stay valid until then.
  void Clear(size_t num_sequences = 0) {
    token_ids.clear();
    positions.clear();
    slots.clear();
    tables.clear();
    sequences.clear();
    tables.reserve(num_sequences);
    outputs.clear();
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
