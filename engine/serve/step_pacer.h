#pragma once

#include <chrono>
#include <cstdint>

namespace strata::engine {

// How many prompt tokens a step may hold while others are decoding, who wait for all of it: as many
// as keep a step within a time, learnt from the steps before, whatever the machine and the model.
//
// Prompts come to an end in any case: the scheduler gives them as many rows as there are decodes,
// which is about half of the time where decoding alone takes longer than the limit. One thread.
class StepPacer {
 public:
  static constexpr int32_t kFewest =
      16;  // tokens: where decodes are few, weights are read for so many

  // `most` tokens at most, and as many with a limit of zero.
  StepPacer(std::chrono::duration<double> limit, int32_t most);

  // For the next step, if it holds decodes.
  int32_t most_prompt_tokens() const { return static_cast<int32_t>(tokens_); }
  // A step took `seconds`; it held so many decodes and prompt tokens.
  void Observe(double seconds, int32_t decodes, int32_t prompt_tokens);

 private:
  const double limit_;  // seconds
  const int32_t most_;
  double tokens_;
};

}  // namespace strata::engine
