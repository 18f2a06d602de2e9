#include "kernels/cpu/host_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/logprobs.h"

namespace strata::kernels {
namespace {

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// Candidates sorted at first; most draws end among them.
constexpr size_t kFirstSorted = 128;
constexpr size_t kSortedGrowth = 8;

// A possible token stays possible, however large the sum.
float Saturated(double logit) {
  return static_cast<float>(std::clamp<double>(logit, -kMaxFloat, kMaxFloat));
}

double Penalized(double logit, const TokenChoice& choice, const SeenToken& seen) {
  const double repetition = choice.repetition_penalty;
  logit = logit > 0 ? logit / repetition : logit * repetition;
  if (seen.generated == 0) return logit;
  return logit - static_cast<double>(choice.frequency_penalty) * seen.generated -
         static_cast<double>(choice.presence_penalty);
}

}  // namespace

size_t HostSampler::scratch_bytes() const {
  return (adjusted_.capacity() + weights_.capacity()) * sizeof(float) +
         places_.capacity() * sizeof(uint16_t) +
         (candidates_.capacity() + allowed_.capacity()) * sizeof(Candidate);
}

size_t HostSampler::MostScratchBytes(int64_t vocab_size) {
  constexpr size_t kOfToken = 2 * sizeof(float) + sizeof(uint16_t) + 2 * sizeof(Candidate);
  return static_cast<size_t>(vocab_size) * kOfToken;
}

void HostSampler::Choose(std::span<const float> logits, const TokenChoice& choice,
                         ChosenToken* chosen) {
  const bool is_given = choice.allowed.size() == 1;  // nothing bars the only allowed id
  const int32_t token = is_given ? choice.allowed[0] : Draw(Adjust(logits, choice), choice);
  if (choice.num_logprobs >= 0) *chosen = LogprobsOf(logits, token, choice.num_logprobs);
  chosen->token = token;
}

// Applies penalties, biases, barred and allowed ids; returns `logits` itself if there are none.
std::span<const float> HostSampler::Adjust(std::span<const float> logits,
                                           const TokenChoice& choice) {
  if (choice.seen.empty() && choice.biases.empty() && choice.allowed.empty()) return logits;
  adjusted_.assign(logits.begin(), logits.end());
  barred_.clear();
  const auto at = [this](int32_t id) -> float& { return adjusted_[static_cast<size_t>(id)]; };
  for (const SeenToken& seen : choice.seen) {
    float& logit = at(seen.id);
    if (std::isfinite(logit)) logit = Saturated(Penalized(logit, choice, seen));
  }
  for (const TokenBias& bias : choice.biases) {
    float& logit = at(bias.id);
    if (bias.bias == kBarred) {
      barred_.push_back(bias.id);
    } else if (std::isfinite(logit)) {
      logit = Saturated(static_cast<double>(logit) + static_cast<double>(bias.bias));
    }
  }
  if (!choice.allowed.empty()) {
    KeepAllowed(choice.allowed);
  } else {
    for (const int32_t id : barred_) at(id) = kImpossible;
  }
  return adjusted_;
}

// Leaves the allowed ids that are not barred; all allowed ids if all are barred.
void HostSampler::KeepAllowed(std::span<const int32_t> allowed) {
  allowed_.clear();
  allowed_.reserve(allowed.size());
  for (const int32_t id : allowed) {
    const float logit = adjusted_[static_cast<size_t>(id)];
    allowed_.push_back({std::isfinite(logit) ? logit : -kMaxFloat, id});
  }
  const auto is_barred = [this](const Candidate& candidate) {
    return std::ranges::find(barred_, candidate.id) != barred_.end();
  };
  if (!std::ranges::all_of(allowed_, is_barred)) std::erase_if(allowed_, is_barred);
  adjusted_.assign(adjusted_.size(), kImpossible);
  for (const Candidate& candidate : allowed_) {
    adjusted_[static_cast<size_t>(candidate.id)] = candidate.logit;
  }
}

// Sorts tokens into bins by likelihood in one pass. Whole bins are then kept, dropped or skipped;
// only bins at a border are opened and sorted. A bin's mass is summed in the order of ids.
int32_t HostSampler::Draw(std::span<const float> logits, const TokenChoice& choice) {
  const auto greedy = static_cast<int32_t>(std::max<int64_t>(ArgMaxLogit(logits), 0));
  const float top = logits[static_cast<size_t>(greedy)];
  if (choice.temperature == 0 || !std::isfinite(top)) return greedy;

  // min-p: p >= min_p * p_max  <=>  (logit - top) / T >= log(min_p).
  const float floor = choice.min_p > 0 ? std::log(choice.min_p) : kImpossible;
  size_t num_bins =
      FillBins(logits, {.top = top, .temperature = choice.temperature, .floor = floor});
  if (choice.top_k > 0) num_bins = KeepTopK(logits, static_cast<size_t>(choice.top_k), num_bins);
  double total = 0;
  for (size_t bin = 0; bin < num_bins; ++bin) total += bins_[bin].mass;
  if (choice.top_p < 1) {
    num_bins = KeepTopP(logits, total * static_cast<double>(choice.top_p), num_bins);
    total = 0;
    for (size_t bin = 0; bin < num_bins; ++bin) total += bins_[bin].mass;
  }
  while (bins_[num_bins - 1].mass == 0) --num_bins;  // bin 0 has the likeliest token's mass
  double left = choice.uniform * total;
  size_t bin = 0;
  while (bin + 1 < num_bins && left >= bins_[bin].mass) left -= bins_[bin++].mass;
  Open(logits, bin);
  size_t place = 0;
  for (; place + 1 < static_cast<size_t>(bins_[bin].count); ++place) {
    left -= WeightOf(Likeliest(place));
    if (left < 0) break;
  }
  return Likeliest(place).id;
}

size_t HostSampler::FillBins(std::span<const float> logits, const LogitWeighing& weighing) {
  weights_.resize(logits.size());
  places_.resize(logits.size());
  candidates_.reserve(logits.size());
  WeighLogits(logits, weighing, weights_, places_);
  bins_.fill({});
  for (size_t i = 0; i < logits.size(); ++i) {
    if (places_[i] == kNumLogitBins) continue;
    Bin& bin = bins_[places_[i]];
    bin.mass += static_cast<double>(weights_[i]);
    ++bin.count;
  }
  return kNumLogitBins;
}

size_t HostSampler::KeepTopK(std::span<const float> logits, size_t top_k, size_t num_bins) {
  size_t bin = 0;
  for (; bin < num_bins && static_cast<size_t>(bins_[bin].count) <= top_k; ++bin) {
    top_k -= static_cast<size_t>(bins_[bin].count);
  }
  if (bin == num_bins || top_k == 0) return bin;
  Open(logits, bin);
  bins_[bin] = {.mass = 0, .count = static_cast<int32_t>(top_k)};
  for (size_t place = 0; place < top_k; ++place) bins_[bin].mass += WeightOf(Likeliest(place));
  return bin + 1;
}

size_t HostSampler::KeepTopP(std::span<const float> logits, double wanted, size_t num_bins) {
  size_t bin = 0;
  for (; bin + 1 < num_bins && bins_[bin].mass < wanted; ++bin) wanted -= bins_[bin].mass;
  Open(logits, bin);
  Bin kept;
  while (kept.count < bins_[bin].count && (kept.count == 0 || kept.mass < wanted)) {
    kept.mass += WeightOf(Likeliest(static_cast<size_t>(kept.count++)));
  }
  bins_[bin] = kept;
  return bin + 1;
}

void HostSampler::Open(std::span<const float> logits, size_t bin) {
  candidates_.clear();
  num_sorted_ = 0;
  const auto wanted = static_cast<uint16_t>(bin);
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i] == wanted) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
}

// Sorts only as far as needed, in growing portions.
const HostSampler::Candidate& HostSampler::Likeliest(size_t place) {
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

bool HostSampler::Likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace strata::kernels
