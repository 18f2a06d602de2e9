#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/step_graphs.h"

namespace strata::kernels::cuda {

void TokenSampler::Open(Stream& stream) {
  for (Answer& answer : answers_) answer.there.Open(stream);
}

size_t TokenSampler::MostBytes(const StepLimits& limits) {
  const auto choices = std::bit_ceil(static_cast<size_t>(limits.sequences));
  const auto vocab = static_cast<size_t>(limits.vocab_size);
  const size_t seen = std::min(vocab, static_cast<size_t>(limits.context));
  return choices * (sizeof(ChoiceEntry) + sizeof(ChosenToken) + sizeof(int32_t) +
                    static_cast<size_t>(AdjustedStride(limits.vocab_size)) * sizeof(float) +
                    2 * seen * sizeof(SeenToken));
}

void TokenSampler::Choose(Stream& stream, StepInputs& inputs, ConstRows logits,
                          std::span<const TokenChoice> choices, StepClock& clock) {
  STRATA_CHECK(num_chosen_ - num_taken_ < Backend::kMostUntaken, "answers are taken in time");
  entries_.clear();
  seen_.clear();
  biases_.clear();
  for (const TokenChoice& choice : choices) {
    entries_.push_back({.how = choice,
                        .seen = std::ssize(seen_),
                        .num_seen = std::ssize(choice.seen),
                        .biases = std::ssize(biases_),
                        .num_biases = std::ssize(choice.biases)});
    seen_.insert(seen_.end(), choice.seen.begin(), choice.seen.end());
    biases_.insert(biases_.end(), choice.biases.begin(), choice.biases.end());
  }
  // Pads to the number of choices of other steps of a similar size, for the sake of their graph.
  entries_.resize(static_cast<size_t>(GraphRows(std::ssize(choices))), {.how = {.row = -1}});
  const size_t count = std::bit_ceil(entries_.size());
  SamplingArgs args = {
      .logits = logits,
      .choices = inputs.Put(StepInputs::kChoices, std::span<const ChoiceEntry>(entries_)),
      .seen = inputs.Put(StepInputs::kSeen, std::span<const SeenToken>(seen_)),
      .biases = inputs.Put(StepInputs::kBiases, std::span<const TokenBias>(biases_))};
  args.adjusted =
      adjusted_.Reserve(stream, count * static_cast<size_t>(AdjustedStride(logits.num_cols)));
  args.chosen = chosen_.Reserve(stream, count);
  args.tokens = tokens_.Reserve(stream, count);
  num_tokens_ = std::ssize(choices);
  SampleTokens(stream, args, std::ssize(entries_));
  stream.EndStep();
  clock.End(stream);
  Answer& answer = answers_[num_chosen_++ % Backend::kMostUntaken];
  answer.count = num_tokens_;
  answer.ids_only = std::all_of(choices.begin(), choices.end(),
                                [](const TokenChoice& choice) { return choice.num_logprobs < 0; });
  const size_t size = answer.ids_only ? sizeof(int32_t) : sizeof(ChosenToken);
  std::byte* const to = answer.memory.Reserve(stream, count * sizeof(ChosenToken));
  stream.Copy(to, answer.ids_only ? static_cast<const void*>(args.tokens) : args.chosen,
              choices.size() * size, cudaMemcpyDeviceToHost);
  if (stream.ok()) {
    stream.Check(cudaEventRecord(answer.there.handle(), stream.handle()), "marking an end");
  }
}

void TokenSampler::Take(Stream& stream, std::span<ChosenToken> chosen) {
  STRATA_CHECK(num_taken_ < num_chosen_, "tokens were chosen");
  const Answer& answer = answers_[num_taken_++ % Backend::kMostUntaken];
  STRATA_CHECK(std::ssize(chosen) == answer.count, "a token for every choice");
  if (stream.ok()) stream.Check(cudaEventSynchronize(answer.there.handle()), "waiting for a step");
  if (!stream.ok()) return;
  const std::byte* from = answer.memory.data();
  for (ChosenToken& token : chosen) {
    if (answer.ids_only) {
      token = {};
      std::memcpy(&token.token, from, sizeof(int32_t));
      from += sizeof(int32_t);
    } else {
      std::memcpy(&token, from, sizeof(ChosenToken));
      from += sizeof(ChosenToken);
    }
  }
}

}  // namespace strata::kernels::cuda
