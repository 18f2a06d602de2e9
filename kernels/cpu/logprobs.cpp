#include "kernels/cpu/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/logits.h"

namespace strata::kernels {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

float Possible(float logit) {
  return std::abs(logit) <= std::numeric_limits<float>::max() ? logit : kImpossible;
}

// Keeps in the lists of `best` the `count` highest logits, in order. Ids come in rising order, so a
// later equal goes behind.
void Offer(int32_t id, float logit, int32_t count, ChosenToken* best) {
  if (logit == kImpossible || count == 0) return;
  int32_t place = best->num_top;
  if (place == count) {
    if (logit <= best->top_logprobs[place - 1]) return;
    --place;
  } else {
    ++best->num_top;
  }
  for (; place > 0 && logit > best->top_logprobs[place - 1]; --place) {
    best->top_ids[place] = best->top_ids[place - 1];
    best->top_logprobs[place] = best->top_logprobs[place - 1];
  }
  best->top_ids[place] = id;
  best->top_logprobs[place] = logit;
}

}  // namespace

ChosenToken LogprobsOf(std::span<const float> logits, int32_t token, int32_t top) {
  STRATA_CHECK(top >= 0 && top <= kMaxLogprobs, "as many as there is room for");
  const float own = Possible(logits[static_cast<size_t>(token)]);
  ChosenToken result = {.token = token, .rank = 1, .logprob = kImpossible};
  // A logit below the bar changes nothing.
  float bar = top == 0 ? own : kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < bar) continue;  // false for NaN
    const float logit = Possible(logits[i]);
    const auto id = static_cast<int32_t>(i);
    if (logit > own || (logit == own && id < token)) ++result.rank;
    Offer(id, logit, top, &result);  // logits for now
    if (top > 0 && result.num_top == top) bar = std::min(own, result.top_logprobs[top - 1]);
  }
  const int64_t highest_place = ArgMaxLogit(logits);
  if (highest_place < 0) return result;
  const float highest = logits[static_cast<size_t>(highest_place)];
  const double log_total = std::log(SumExpLogits(logits, highest));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(highest) -
                              log_total);
  };
  result.logprob = logprob(own);
  for (int32_t i = 0; i < result.num_top; ++i) {
    result.top_logprobs[i] = logprob(result.top_logprobs[i]);
  }
  return result;
}

}  // namespace strata::kernels
