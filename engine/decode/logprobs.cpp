#include "engine/decode/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/logits.h"

namespace strata::engine {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

float Possible(float logit) {
  return std::abs(logit) <= std::numeric_limits<float>::max() ? logit : kImpossible;
}

// Keeps in `best` the `count` highest logits, in order. Ids come in rising order, so a later equal
// goes behind.
void Offer(int32_t id, float logit, size_t count, std::vector<TokenLogprob>* best) {
  if (logit == kImpossible) return;
  if (best->size() == count) {
    if (count == 0 || logit <= best->back().logprob) return;
    best->pop_back();
  }
  const auto place = std::find_if(best->begin(), best->end(), [logit](const TokenLogprob& other) {
    return logit > other.logprob;
  });
  best->insert(place, {.id = id, .logprob = logit});
}

}  // namespace

TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t token, int32_t top) {
  const float own = Possible(logits[static_cast<size_t>(token)]);
  const auto count = static_cast<size_t>(top);
  TokenLogprobs result = {.logprob = kImpossible, .rank = 1, .top = {}};
  result.top.reserve(count);
  // A logit below the bar changes nothing.
  float bar = count == 0 ? own : kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < bar) continue;  // false for NaN
    const float logit = Possible(logits[i]);
    const auto id = static_cast<int32_t>(i);
    if (logit > own || (logit == own && id < token)) ++result.rank;
    Offer(id, logit, count, &result.top);  // logits for now
    if (count > 0 && result.top.size() == count) bar = std::min(own, result.top.back().logprob);
  }
  const int64_t highest_place = kernels::ArgMaxLogit(logits);
  if (highest_place < 0) return result;
  const float highest = logits[static_cast<size_t>(highest_place)];
  const double log_total = std::log(kernels::SumExpLogits(logits, highest));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - highest - log_total);
  };
  result.logprob = logprob(own);
  for (TokenLogprob& entry : result.top) entry.logprob = logprob(entry.logprob);
  return result;
}

}  // namespace strata::engine
