#include <algorithm>
#include <bit>

#include "kernels/cuda/sampling.h"

namespace strata::kernels::cuda {
namespace {

// Device memory with the values; its room doubles, since histories grow.
template <class T>
const T* Sent(Stream& stream, Staging& staging, const std::vector<T>& values,
              DeviceArray<T>& array) {
  T* const to = array.Reserve(stream, std::bit_ceil(values.size()));
  staging.Send(stream, to, values.data(), values.size() * sizeof(T));
  return to;
}

}  // namespace

size_t TokenSampler::MostBytes(const StepLimits& limits) {
  const auto choices = std::bit_ceil(static_cast<size_t>(limits.sequences));
  const auto vocab = static_cast<size_t>(limits.vocab_size);
  const size_t seen = std::min(vocab, static_cast<size_t>(limits.context));
  return choices * (sizeof(ChoiceEntry) + sizeof(ChosenToken) + vocab * sizeof(float) +
                    2 * seen * sizeof(SeenToken));
}

void TokenSampler::Choose(Stream& stream, Staging& staging, ConstRows logits,
                          std::span<const TokenChoice> choices, std::span<ChosenToken> chosen) {
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
  const size_t count = std::bit_ceil(choices.size());
  SamplingArgs args = {.logits = logits,
                       .choices = Sent(stream, staging, entries_, sent_entries_),
                       .seen = Sent(stream, staging, seen_, sent_seen_),
                       .biases = Sent(stream, staging, biases_, sent_biases_)};
  args.adjusted = adjusted_.Reserve(stream, count * static_cast<size_t>(logits.num_cols));
  args.chosen = chosen_.Reserve(stream, count);
  SampleTokens(stream, args, std::ssize(choices));
  stream.Copy(chosen.data(), args.chosen, chosen.size_bytes(), cudaMemcpyDeviceToHost);
  stream.Wait();
}

}  // namespace strata::kernels::cuda
