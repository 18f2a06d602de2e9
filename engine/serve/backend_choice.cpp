#include "engine/serve/backend_choice.h"

namespace strata::engine {

double UniformFor(const Sequence& sequence, int32_t index, int32_t position) {
  if (sequence.sampling().greedy()) return 0;  // greedy needs no random number
  return UniformAt(sequence.sampling().seed, static_cast<uint32_t>(index),
                   static_cast<uint64_t>(position));
}

kernels::TokenChoice ChoiceOf(const Sequence& sequence, int32_t index, int32_t position,
                              std::span<const int32_t> eos_ids,
                              std::vector<std::vector<kernels::TokenBias>>* biases) {
  const SamplingParams& params = sequence.sampling();
  kernels::TokenChoice choice = {.temperature = params.greedy() ? 0 : params.temperature,
                                 .top_k = params.top_k,
                                 .top_p = params.greedy() ? 1 : params.top_p,
                                 .min_p = params.min_p,
                                 .repetition_penalty = params.repetition_penalty,
                                 .frequency_penalty = params.frequency_penalty,
                                 .presence_penalty = params.presence_penalty,
                                 .seen = sequence.history.entries(),
                                 .uniform = UniformFor(sequence, index, position),
                                 .num_logprobs = params.logprobs.value_or(-1)};
  std::vector<int32_t> barred;
  AppendBarred(params, eos_ids, sequence.output(), position - sequence.state->prompt_size, &barred);
  if (params.logit_bias.empty() && barred.empty()) return choice;
  std::vector<kernels::TokenBias>& list = biases->emplace_back();
  for (const LogitBias& bias : params.logit_bias) list.push_back({bias.id, bias.bias});
  for (const int32_t id : barred) list.push_back({id, kernels::kBarred});
  choice.biases = list;
  return choice;
}

SampledToken TokenOf(const kernels::ChosenToken& chosen, const SamplingParams& params) {
  SampledToken sampled = {.token = chosen.token};
  if (!params.logprobs) return sampled;
  TokenLogprobs& logprobs = sampled.logprobs.emplace();
  logprobs.logprob = chosen.logprob;
  logprobs.rank = chosen.rank;
  for (int32_t i = 0; i < chosen.num_top; ++i) {
    logprobs.top.push_back({.id = chosen.top_ids[i], .logprob = chosen.top_logprobs[i]});
  }
  return sampled;
}

}  // namespace strata::engine
