#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace strata::engine {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

float Possible(float logit) {
  return std::abs(logit) <= std::numeric_limits<float>::max() ? logit : kImpossible;
}

// Keeps `best` the `count` highest, in order; ids come in rising order, so that a later equal
// stands behind.
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
  float highest = kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float logit = Possible(logits[i]);
    const auto id = static_cast<int32_t>(i);
    highest = std::max(highest, logit);
    if (logit > own || (logit == own && id < token)) ++result.rank;
    Offer(id, logit, count, &result.top);  // logits for now
  }
  if (highest == kImpossible) return result;

  double total = 0;
  for (const float logit : logits) {
    total += std::exp(static_cast<double>(Possible(logit)) - highest);  // exp(-inf) is 0
  }
  const double log_total = std::log(total);
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - highest - log_total);
  };
  result.logprob = logprob(own);
  for (TokenLogprob& entry : result.top) entry.logprob = logprob(entry.logprob);
  return result;
}

}  // namespace strata::engine
