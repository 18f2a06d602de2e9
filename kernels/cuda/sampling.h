#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cpu/host_sampler.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/step_clock.h"
#include "kernels/cuda/step_inputs.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace strata::kernels::cuda {

// TokenChoice on the device; two lists hold `seen` and `biases` of all choices.
struct ChoiceEntry {
  TokenChoice how;   // its spans are the host's; row -1: no choice
  int64_t seen = 0;  // the first of its own in SamplingArgs::seen
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

// Chooses tokens on the device: choices go there; ids and requested logprobs come back, in one
// copy, to pinned memory. Two steps may be under way at a time. The kernel knows no allowed ids:
// such choices are the host's, from copies of their rows. Each choice has its own way, so its bits
// do not depend on the others.
class TokenSampler {
 public:
  void Open(Stream& stream);
  // Upper bound on device memory, for one choice per sequence.
  static size_t MostBytes(const StepLimits& limits);

  // Ends the stream's step; waits only if a choice is the host's.
  void Choose(Stream& stream, StepInputs& inputs, ConstRows logits,
              std::span<const TokenChoice> choices, StepClock& clock);
  // Waits for the oldest choices that were not taken. [choices]
  void Take(Stream& stream, std::span<ChosenToken> chosen);

  // The ids chosen last, on the device: [num_tokens()].
  const int32_t* tokens() const { return tokens_.data(); }
  int64_t num_tokens() const { return num_tokens_; }

 private:
  // The host's answer to choices[choice].
  struct HostToken {
    size_t choice = 0;
    ChosenToken chosen;
  };
  // Results of one step.
  struct Answer {
    PinnedArray<std::byte> memory;  // ChosenTokens, or ids if no logprobs are wanted
    bool ids_only = false;
    int64_t count = 0;  // of the device's
    std::vector<HostToken> host;
    Event there;
  };

  void ChooseOnDevice(Stream& stream, StepInputs& inputs, ConstRows logits);
  void ChooseOnHost(Stream& stream, ConstRows logits, std::span<const TokenChoice> choices,
                    std::vector<HostToken>* tokens);

  std::vector<ChoiceEntry> entries_;
  std::vector<SeenToken> seen_;
  std::vector<TokenBias> biases_;
  DeviceArray<float> adjusted_;
  DeviceArray<ChosenToken> chosen_;
  DeviceArray<int32_t> tokens_;
  int64_t num_tokens_ = 0;
  Answer answers_[Backend::kMostUntaken];
  HostSampler host_sampler_;
  std::vector<float> host_logits_;  // rows of the host's choices
  int64_t num_chosen_ = 0;          // steps
  int64_t num_taken_ = 0;
};

// Skips choices of a row below 0.
void SampleTokens(Stream& stream, const SamplingArgs& args, int64_t num_choices);

}  // namespace strata::kernels::cuda
