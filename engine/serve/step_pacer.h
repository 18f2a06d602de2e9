#pragma once

#include <chrono>
#include <cstdint>

namespace strata::engine {

// Learns how many prompt tokens a step may hold beside decodes, which wait for all of it: as many
// as keep a step within a time, by the times of earlier steps, for any machine and model.
//
// Prompts always make progress: the scheduler gives them as many rows as there are decodes, about
// half of the time if decoding alone takes longer than the limit. One thread.
class StepPacer {
 public:
  static constexpr int32_t kFewest =
      16;  // tokens: with few decodes the weights are read anyway, and serve this many

  // `most`: upper bound on prompt tokens, and their number with a limit of zero.
  StepPacer(std::chrono::duration<double> limit, int32_t most);

  // For the next step, if it holds decodes.
  int32_t most_prompt_tokens() const { return static_cast<int32_t>(tokens_); }
  // Reports a step: its seconds, decodes and prompt tokens.
  void Observe(double seconds, int32_t decodes, int32_t prompt_tokens);

 private:
  const double limit_;  // seconds
  const int32_t most_;
  double tokens_;
};

}  // namespace strata::engine
