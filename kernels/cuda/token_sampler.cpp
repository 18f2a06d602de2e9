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
  Answer& answer = answers_[num_chosen_++ % Backend::kMostUntaken];
  answer.ids_only = true;
  answer.host.clear();
  entries_.clear();
  seen_.clear();
  biases_.clear();
  for (size_t i = 0; i < choices.size(); ++i) {
    const TokenChoice& choice = choices[i];
    if (!choice.allowed.empty()) {
      answer.host.push_back({.choice = i, .chosen = {}});
      continue;
    }
    entries_.push_back({.how = choice,
                        .seen = std::ssize(seen_),
                        .num_seen = std::ssize(choice.seen),
                        .biases = std::ssize(biases_),
                        .num_biases = std::ssize(choice.biases)});
    seen_.insert(seen_.end(), choice.seen.begin(), choice.seen.end());
    biases_.insert(biases_.end(), choice.biases.begin(), choice.biases.end());
    if (choice.num_logprobs >= 0) answer.ids_only = false;
  }
  num_tokens_ = answer.count = std::ssize(entries_);
  if (answer.count > 0) ChooseOnDevice(stream, inputs, logits);
  stream.EndStep();
  clock.End(stream);
  if (answer.count > 0) {
    const size_t size = answer.ids_only ? sizeof(int32_t) : sizeof(ChosenToken);
    std::byte* const to =
        answer.memory.Reserve(stream, std::bit_ceil(entries_.size()) * sizeof(ChosenToken));
    stream.Copy(to, answer.ids_only ? static_cast<const void*>(tokens_.data()) : chosen_.data(),
                static_cast<size_t>(answer.count) * size, cudaMemcpyDeviceToHost);
  }
  if (stream.ok()) {
    stream.Check(cudaEventRecord(answer.there.handle(), stream.handle()), "marking an end");
  }
  if (!answer.host.empty()) ChooseOnHost(stream, logits, choices, &answer.host);
}

void TokenSampler::ChooseOnDevice(Stream& stream, StepInputs& inputs, ConstRows logits) {
  // Pads to the number of choices of other steps of a similar size, for the sake of their graph.
  entries_.resize(static_cast<size_t>(GraphRows(std::ssize(entries_))), {.how = {.row = -1}});
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
  SampleTokens(stream, args, std::ssize(entries_));
}

void TokenSampler::ChooseOnHost(Stream& stream, ConstRows logits,
                                std::span<const TokenChoice> choices,
                                std::vector<HostToken>* tokens) {
  const auto vocab = static_cast<size_t>(logits.num_cols);
  host_logits_.resize(std::max(host_logits_.size(), tokens->size() * vocab));
  for (size_t i = 0; i < tokens->size(); ++i) {
    const int64_t row = choices[(*tokens)[i].choice].row;
    stream.Copy(host_logits_.data() + i * vocab, logits.data + row * logits.stride,
                vocab * sizeof(float), cudaMemcpyDeviceToHost);
  }
  stream.Wait();
  if (!stream.ok()) return;
  for (size_t i = 0; i < tokens->size(); ++i) {
    host_sampler_.Choose(std::span(host_logits_).subspan(i * vocab, vocab),
                         choices[(*tokens)[i].choice], &(*tokens)[i].chosen);
  }
}

void TokenSampler::Take(Stream& stream, std::span<ChosenToken> chosen) {
  STRATA_CHECK(num_taken_ < num_chosen_, "tokens were chosen");
  const Answer& answer = answers_[num_taken_++ % Backend::kMostUntaken];
  STRATA_CHECK(std::ssize(chosen) == answer.count + std::ssize(answer.host),
               "a token for every choice");
  if (stream.ok()) stream.Check(cudaEventSynchronize(answer.there.handle()), "waiting for a step");
  if (!stream.ok()) return;
  const std::byte* from = answer.memory.data();
  auto host = answer.host.begin();
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (host != answer.host.end() && host->choice == i) {
      chosen[i] = host++->chosen;
    } else if (answer.ids_only) {
      chosen[i] = {};
      std::memcpy(&chosen[i].token, from, sizeof(int32_t));
      from += sizeof(int32_t);
    } else {
      std::memcpy(&chosen[i], from, sizeof(ChosenToken));
      from += sizeof(ChosenToken);
    }
  }
}

}  // namespace strata::kernels::cuda
