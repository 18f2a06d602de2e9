#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/step_clock.h"
#include "kernels/cuda/step_inputs.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace strata::kernels::cuda {

// TokenChoice as the device has it, its lists in two for all choices.
struct ChoiceEntry {
  TokenChoice how;   // its spans are the host's; row -1: there is no such choice
  int64_t seen = 0;  // the first of its own
  int64_t num_seen = 0;
  int64_t biases = 0;
  int64_t num_biases = 0;
};

// Floats from one row of adjusted logits to the next: whole vectors of four.
constexpr int64_t AdjustedStride(int64_t vocab) { return (vocab + 3) / 4 * 4; }

struct SamplingArgs {
  ConstRows logits = {};
  const ChoiceEntry* choices = nullptr;
  const SeenToken* seen = nullptr;
  const TokenBias* biases = nullptr;
  float* adjusted = nullptr;      // [choices, AdjustedStride(logits.num_cols)]
  ChosenToken* chosen = nullptr;  // [choices]
  int32_t* tokens = nullptr;      // [choices], the ids alone

  friend bool operator==(const SamplingArgs&, const SamplingArgs&) = default;
};

// Chooses tokens on the device: choices go there, ids and the logprobs that were asked for come
// back, in one copy, to pinned memory: two steps may be under way at a time.
class TokenSampler {
 public:
  void Open(Stream& stream);
  // Of device memory, for a choice of each sequence.
  static size_t MostBytes(const StepLimits& limits);

  // Ends the stream's step; does not wait.
  void Choose(Stream& stream, StepInputs& inputs, ConstRows logits,
              std::span<const TokenChoice> choices, StepClock& clock);
  // Waits for the oldest that were not taken. [choices]
  void Take(Stream& stream, std::span<ChosenToken> chosen);

  // What was chosen last, on the device: [num_tokens()].
  const int32_t* tokens() const { return tokens_.data(); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  // What comes back of a step.
  struct Answer {
    PinnedArray<std::byte> memory;  // ChosenTokens, or where no logprobs are wanted ids
    bool ids_only = false;
    int64_t count = 0;
    Event there;
  };

  std::vector<ChoiceEntry> entries_;
  std::vector<SeenToken> seen_;
  std::vector<TokenBias> biases_;
  DeviceArray<float> adjusted_;
  DeviceArray<ChosenToken> chosen_;
  DeviceArray<int32_t> tokens_;
  int64_t num_tokens_ = 0;
  Answer answers_[Backend::kMostUntaken];
  int64_t num_chosen_ = 0;  // steps
  int64_t num_taken_ = 0;
};

// A choice of a row below 0 is none.
void SampleTokens(Stream& stream, const SamplingArgs& args, int64_t num_choices);

}  // namespace strata::kernels::cuda
