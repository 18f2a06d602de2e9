#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/logprobs.h"

namespace strata::engine {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// A first helping of sorted candidates; most draws end within it.
constexpr size_t kFirstSorted = 128;
constexpr size_t kSortedGrowth = 8;

int32_t ArgMax(std::span<const float> logits) {
  int32_t best = 0;
  float best_logit = kImpossible;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > best_logit && logits[i] <= kMaxFloat) {  // false for what is not finite
      best = static_cast<int32_t>(i);
      best_logit = logits[i];
    }
  }
  return best;
}

// A possible token stays possible, however large the sum.
float Saturated(double logit) {
  return static_cast<float>(std::clamp<double>(logit, -kMaxFloat, kMaxFloat));
}

double Penalized(double logit, const SamplingParams& params, const TokenHistory::Entry& entry) {
  const double repetition = params.repetition_penalty;
  logit = logit > 0 ? logit / repetition : logit * repetition;
  if (entry.generated == 0) return logit;
  return logit - static_cast<double>(params.frequency_penalty) * entry.generated -
         static_cast<double>(params.presence_penalty);
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

double UniformAt(uint64_t seed, uint32_t index, uint64_t position) {
  const auto words =
      Philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), index, 0},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{words[0]} << 32 | words[1]) >> 11;  // 53 of them
  return static_cast<double>(bits) * 0x1.0p-53;
}

SampledToken Sampler::Sample(std::span<const float> logits, const SamplingParams& params,
                             const SamplingState& state) {
  SampledToken sampled;
  sampled.token = Choose(Adjust(logits, params, state), params, state.uniform);
  if (params.logprobs) sampled.logprobs = LogprobsOf(logits, sampled.token, *params.logprobs);
  return sampled;
}

// Penalties, bias and barred ids; the logits themselves where there are none.
std::span<const float> Sampler::Adjust(std::span<const float> logits, const SamplingParams& params,
                                       const SamplingState& state) {
  const bool bars = state.num_generated < params.min_tokens;
  if (state.history.entries().empty() && params.logit_bias.empty() && !bars) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  const auto at = [this](int32_t id) -> float& { return adjusted_[static_cast<size_t>(id)]; };
  for (const TokenHistory::Entry& entry : state.history.entries()) {
    float& logit = at(entry.id);
    if (std::isfinite(logit)) logit = Saturated(Penalized(logit, params, entry));
  }
  for (const LogitBias& bias : params.logit_bias) {
    float& logit = at(bias.id);
    if (std::isfinite(logit)) logit = Saturated(static_cast<double>(logit) + bias.bias);
  }
  if (bars) {
    if (!params.ignore_eos) {
      for (const int32_t id : state.eos_ids) at(id) = kImpossible;
    }
    for (const int32_t id : params.stop_ids) at(id) = kImpossible;
  }
  return adjusted_;
}

int32_t Sampler::Choose(std::span<const float> logits, const SamplingParams& params,
                        double uniform) {
  const int32_t greedy = ArgMax(logits);
  const float top = logits[static_cast<size_t>(greedy)];
  if (params.temperature == 0 || !std::isfinite(top)) return greedy;

  const double temperature = params.temperature;
  const auto scaled = [&](float logit) { return (static_cast<double>(logit) - top) / temperature; };
  // min-p before any sorting: p >= min_p * p_max  <=>  (logit - top) / T >= log(min_p).
  const double floor =
      params.min_p > 0 ? std::log(static_cast<double>(params.min_p)) : double{kImpossible};
  candidates_.clear();
  num_sorted_ = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i]) || scaled(logits[i]) < floor) continue;
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto top_k = static_cast<size_t>(params.top_k);
  if (top_k > 0 && top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k, candidates_.end(),
                     Likelier);
    candidates_.resize(top_k);
    // nth_element leaves them in an order of its own; what is summed below must not depend on it.
    std::sort(candidates_.begin(), candidates_.end(), Likelier);
    num_sorted_ = top_k;
  }

  double total = 0;
  for (const Candidate& candidate : candidates_) total += std::exp(scaled(candidate.logit));
  size_t count = candidates_.size();
  if (params.top_p < 1) {
    const double wanted = total * static_cast<double>(params.top_p);
    double kept = 0;
    size_t fewest = 0;
    while (fewest < count && kept < wanted) kept += std::exp(scaled(Likeliest(fewest++).logit));
    count = fewest;
    total = kept;
  }
  double left = uniform * total;
  for (size_t place = 0; place + 1 < count; ++place) {
    left -= std::exp(scaled(Likeliest(place).logit));
    if (left < 0) return Likeliest(place).id;
  }
  return Likeliest(count - 1).id;
}

// Sorts no further than it is asked for, in helpings that grow.
const Sampler::Candidate& Sampler::Likeliest(size_t place) {
  if (place >= num_sorted_) {
    const size_t end =
        std::min(std::max(kFirstSorted, kSortedGrowth * num_sorted_), candidates_.size());
    const auto first = candidates_.begin() + static_cast<std::ptrdiff_t>(num_sorted_);
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(end);
    if (last != candidates_.end()) std::nth_element(first, last, candidates_.end(), Likelier);
    std::sort(first, last, Likelier);
    num_sorted_ = end;
  }
  return candidates_[place];
}

bool Sampler::Likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace strata::engine
