#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace strata::kernels::cuda {

// TokenChoice as the device has it, its lists in two for all choices.
struct ChoiceEntry {
  TokenChoice how;   // its spans are the host's
  int64_t seen = 0;  // the first of its own
  int64_t num_seen = 0;
  int64_t biases = 0;
  int64_t num_biases = 0;
};

struct SamplingArgs {
  ConstRows logits = {};
  const ChoiceEntry* choices = nullptr;
  const SeenToken* seen = nullptr;
  const TokenBias* biases = nullptr;
  float* adjusted = nullptr;  // [choices, logits.num_cols]
  ChosenToken* chosen = nullptr;

  friend bool operator==(const SamplingArgs&, const SamplingArgs&) = default;
};

// Chooses tokens on the device: choices go there, ids and the logprobs that were asked for come
// back.
class TokenSampler {
 public:
  // Of device memory, for a choice of each sequence.
  static size_t MostBytes(const StepLimits& limits);

  // Waits for the result.
  void Choose(Stream& stream, Staging& staging, ConstRows logits,
              std::span<const TokenChoice> choices, std::span<ChosenToken> chosen);

 private:
  std::vector<ChoiceEntry> entries_;
  std::vector<SeenToken> seen_;
  std::vector<TokenBias> biases_;
  DeviceArray<ChoiceEntry> sent_entries_;
  DeviceArray<SeenToken> sent_seen_;
  DeviceArray<TokenBias> sent_biases_;
  DeviceArray<float> adjusted_;
  DeviceArray<ChosenToken> chosen_;
};

void SampleTokens(Stream& stream, const SamplingArgs& args, int64_t num_choices);

}  // namespace strata::kernels::cuda
