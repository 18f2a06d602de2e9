#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/host_sampler.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor.h"
#include "kernels/token_choice.h"

namespace strata::kernels {

// ChooseTokens() and TakeChosen() of a backend whose logits are in host memory. Memory grows to the
// need of the largest call and stays.
class HostChoices {
 public:
  // Uses the threads of the pool; each choice is made by one.
  void Choose(ConstRows logits, std::span<const TokenChoice> choices, ThreadPool& pool);
  // Writes the tokens of the oldest choices not taken yet.
  void Take(std::span<ChosenToken> chosen);

  // The token of choices[i] of the last Choose().
  int32_t token(int32_t i) const {
    return answers_[(num_chosen_ - 1) % Backend::kMostUntaken]
        .chosen.at(static_cast<size_t>(i))
        .token;
  }

  double seconds() const { return seconds_; }  // in Choose() so far
  size_t bytes() const;
  // Upper bound on bytes().
  static size_t MostBytes(const StepLimits& limits, int num_threads);

 private:
  // The tokens of one Choose().
  struct Answer {
    std::vector<ChosenToken> chosen;
    bool ids_only = false;  // no log-probabilities are wanted
  };

  std::vector<HostSampler> samplers_;
  Answer answers_[Backend::kMostUntaken];
  int64_t num_chosen_ = 0;  // calls
  int64_t num_taken_ = 0;
  double seconds_ = 0;
};

}  // namespace strata::kernels
