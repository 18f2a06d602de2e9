#include "engine/decode/token_choice.h"

#include <algorithm>

namespace strata::engine {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

void Bar(std::span<const int32_t> ids, std::vector<kernels::TokenBias>* biases) {
  for (const int32_t id : ids) biases->push_back({id, kernels::kBarred});
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

kernels::TokenChoice ChoiceOf(const SamplingParams& params, const SamplingState& state,
                              std::vector<kernels::TokenBias>* biases) {
  for (const LogitBias& bias : params.logit_bias) biases->push_back({bias.id, bias.bias});
  if (state.num_generated < params.min_tokens) {
    if (!params.ignore_eos) Bar(state.eos_ids, biases);
    Bar(params.stop_ids, biases);
  }
  for (const std::vector<int32_t>& word : params.bad_words) {
    const std::span<const int32_t> before = std::span(word).first(word.size() - 1);
    if (before.size() > state.output.size()) continue;
    if (std::ranges::equal(before, state.output.last(before.size()))) {
      Bar(std::span(word).last(1), biases);
    }
  }
  return {.temperature = params.greedy() ? 0 : params.temperature,
          .top_k = params.top_k,
          .top_p = params.greedy() ? 1 : params.top_p,
          .min_p = params.min_p,
          .repetition_penalty = params.repetition_penalty,
          .frequency_penalty = params.frequency_penalty,
          .presence_penalty = params.presence_penalty,
          .seen = state.history.entries(),
          .biases = *biases,
          .allowed = params.allowed_ids,
          .uniform = state.uniform,
          .num_logprobs = params.logprobs.value_or(-1)};
}

TokenLogprobs LogprobsOf(const kernels::ChosenToken& chosen) {
  TokenLogprobs logprobs = {.logprob = chosen.logprob, .rank = chosen.rank, .top = {}};
  logprobs.top.reserve(static_cast<size_t>(chosen.num_top));
  for (int32_t i = 0; i < chosen.num_top; ++i) {
    logprobs.top.push_back({.id = chosen.top_ids[i], .logprob = chosen.top_logprobs[i]});
  }
  return logprobs;
}

}  // namespace strata::engine
