#include "engine/decode/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/decode/logprobs.h"

namespace strata::engine {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

constexpr float kMaxFloat = std::numeric_limits<float>::max();
constexpr float kImpossible = -std::numeric_limits<float>::infinity();

// Candidates sorted at first; most draws end among them.
constexpr size_t kFirstSorted = 128;
constexpr size_t kSortedGrowth = 8;

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

void AppendBarred(const SamplingParams& params, std::span<const int32_t> eos_ids,
                  std::span<const int32_t> output, int32_t num_generated,
                  std::vector<int32_t>* ids) {
  if (num_generated < params.min_tokens) {
    if (!params.ignore_eos) ids->insert(ids->end(), eos_ids.begin(), eos_ids.end());
    ids->insert(ids->end(), params.stop_ids.begin(), params.stop_ids.end());
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    const std::span<const int32_t> before = std::span(word).first(word.size() - 1);
    if (before.size() > output.size()) continue;
    if (std::ranges::equal(before, output.last(before.size()))) ids->push_back(word.back());
  }
}

SampledToken Sampler::Sample(std::span<const float> logits, const SamplingParams& params,
                             const SamplingState& state) {
  SampledToken sampled;
  sampled.token = Choose(Adjust(logits, params, state), params, state.uniform);
  if (params.logprobs) sampled.logprobs = LogprobsOf(logits, sampled.token, *params.logprobs);
  return sampled;
}

// Applies penalties, bias, barred and allowed ids; returns `logits` itself if there are none.
std::span<const float> Sampler::Adjust(std::span<const float> logits, const SamplingParams& params,
                                       const SamplingState& state) {
  barred_.clear();
  AppendBarred(params, state.eos_ids, state.output, state.num_generated, &barred_);
  if (state.history.entries().empty() && params.logit_bias.empty() && barred_.empty() &&
      params.allowed_ids.empty()) {
    return logits;
  }
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
  if (!params.allowed_ids.empty()) {
    KeepAllowed(params);
  } else {
    for (const int32_t id : barred_) at(id) = kImpossible;
  }
  return adjusted_;
}

// Leaves the allowed ids that are not barred; all allowed ids if all are barred.
void Sampler::KeepAllowed(const SamplingParams& params) {
  allowed_.clear();
  for (const int32_t id : params.allowed_ids) {
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
int32_t Sampler::Choose(std::span<const float> logits, const SamplingParams& params,
                        double uniform) {
  const auto greedy = static_cast<int32_t>(std::max<int64_t>(kernels::ArgMaxLogit(logits), 0));
  const float top = logits[static_cast<size_t>(greedy)];
  if (params.greedy() || !std::isfinite(top)) return greedy;

  // min-p: p >= min_p * p_max  <=>  (logit - top) / T >= log(min_p).
  const float floor = params.min_p > 0 ? std::log(params.min_p) : kImpossible;
  size_t num_bins =
      FillBins(logits, {.top = top, .temperature = params.temperature, .floor = floor});
  if (params.top_k > 0) num_bins = KeepTopK(logits, static_cast<size_t>(params.top_k), num_bins);
  double total = 0;
  for (size_t bin = 0; bin < num_bins; ++bin) total += bins_[bin].mass;
  if (params.top_p < 1) {
    num_bins = KeepTopP(logits, total * static_cast<double>(params.top_p), num_bins);
    total = 0;
    for (size_t bin = 0; bin < num_bins; ++bin) total += bins_[bin].mass;
  }
  while (bins_[num_bins - 1].mass == 0) --num_bins;  // bin 0 has the likeliest token's mass
  double left = uniform * total;
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

size_t Sampler::FillBins(std::span<const float> logits, const kernels::LogitWeighing& weighing) {
  weights_.resize(logits.size());
  places_.resize(logits.size());
  kernels::WeighLogits(logits, weighing, weights_, places_);
  bins_.fill({});
  for (size_t i = 0; i < logits.size(); ++i) {
    if (places_[i] == kernels::kNumLogitBins) continue;
    Bin& bin = bins_[places_[i]];
    bin.mass += static_cast<double>(weights_[i]);
    ++bin.count;
  }
  return kernels::kNumLogitBins;
}

size_t Sampler::KeepTopK(std::span<const float> logits, size_t top_k, size_t num_bins) {
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

size_t Sampler::KeepTopP(std::span<const float> logits, double wanted, size_t num_bins) {
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

void Sampler::Open(std::span<const float> logits, size_t bin) {
  candidates_.clear();
  num_sorted_ = 0;
  const auto wanted = static_cast<uint16_t>(bin);
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i] == wanted) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
}

// Sorts only as far as needed, in growing portions.
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
