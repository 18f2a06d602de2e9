#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace strata::engine {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

int32_t ArgMax(std::span<const float> logits) {
  int32_t best = 0;
  float best_logit = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i]) && logits[i] > best_logit) {
      best = static_cast<int32_t>(i);
      best_logit = logits[i];
    }
  }
  return best;
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

int32_t Sampler::Sample(std::span<const float> logits, const SamplingParams& params,
                        double uniform) {
  const int32_t greedy = ArgMax(logits);
  const float top = logits[static_cast<size_t>(greedy)];
  if (params.temperature == 0 || !std::isfinite(top)) return greedy;

  // min-p before the sort: p >= min_p * p_max  <=>  (logit - top) / T >= log(min_p).
  const double temperature = params.temperature;
  const double floor = params.min_p > 0 ? std::log(static_cast<double>(params.min_p))
                                        : -std::numeric_limits<double>::infinity();
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) continue;
    if ((static_cast<double>(logits[i]) - top) / temperature < floor) continue;
    candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k, candidates_.end(),
                     likelier);
    candidates_.resize(static_cast<size_t>(params.top_k));
  }
  std::sort(candidates_.begin(), candidates_.end(), likelier);

  weights_.clear();
  double total = 0;
  for (const Candidate& candidate : candidates_) {
    weights_.push_back(std::exp((static_cast<double>(candidate.logit) - top) / temperature));
    total += weights_.back();
  }
  if (params.top_p < 1) {
    const double wanted = total * static_cast<double>(params.top_p);
    double kept = 0;
    size_t count = 0;
    while (count < weights_.size() && kept < wanted) kept += weights_[count++];
    weights_.resize(count);
    total = kept;
  }
  double left = uniform * total;
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].id;
  }
  return candidates_[weights_.size() - 1].id;  // rounding left a crumb
}

TokenLogprobs Sampler::LogprobsOf(std::span<const float> logits, int32_t token, int32_t top) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  (void)top;
  return {.logprob = static_cast<float>(static_cast<double>(logits[static_cast<size_t>(token)]) -
                                        std::log(sum)),
          .rank = 1,
          .top = {}};
}

}  // namespace strata::engine
