#include "kernels/cpu/host_choices.h"

#include <algorithm>
#include <chrono>

#include "kernels/check.h"

namespace strata::kernels {
namespace {

constexpr int64_t kSmallLogits = 1 << 15;  // not worth a second thread

// Bounds the scratch memory on machines with many threads.
int64_t MostSamplers(int num_threads) { return std::min(num_threads, 8); }

}  // namespace

void HostChoices::Choose(ConstRows logits, std::span<const TokenChoice> choices, ThreadPool& pool) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  STRATA_CHECK(num_chosen_ - num_taken_ < Backend::kMostUntaken, "answers are taken in time");
  Answer& answer = answers_[num_chosen_++ % Backend::kMostUntaken];
  answer.chosen.reserve(choices.size());  // no more than that: WorkingBytes() bounds it
  answer.chosen.resize(choices.size());
  answer.ids_only = std::ranges::all_of(
      choices, [](const TokenChoice& choice) { return choice.num_logprobs < 0; });
  // Ranges of equal length, each with a sampler of its own.
  const int64_t small = (std::ssize(choices) * logits.num_cols + kSmallLogits - 1) / kSmallLogits;
  const int64_t ranges = std::clamp<int64_t>(small, 1, MostSamplers(pool.num_threads()));
  const int64_t length = (std::ssize(choices) + ranges - 1) / ranges;
  if (std::ssize(samplers_) < ranges) samplers_.resize(static_cast<size_t>(ranges));
  pool.ParallelFor(std::ssize(choices), length, [&](int64_t begin, int64_t end, int) {
    HostSampler& sampler = samplers_[static_cast<size_t>(begin / length)];
    for (int64_t i = begin; i < end; ++i) {
      const TokenChoice& choice = choices[static_cast<size_t>(i)];
      STRATA_CHECK(choice.row >= 0 && choice.row < logits.num_rows, "rows are rows of the logits");
      sampler.Choose(
          {logits.data + choice.row * logits.stride, static_cast<size_t>(logits.num_cols)}, choice,
          &answer.chosen[static_cast<size_t>(i)]);
    }
  });
  seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
}

void HostChoices::Take(std::span<ChosenToken> chosen) {
  STRATA_CHECK(num_taken_ < num_chosen_, "tokens were chosen");
  const Answer& answer = answers_[num_taken_++ % Backend::kMostUntaken];
  STRATA_CHECK(answer.chosen.size() == chosen.size(), "a token for every choice");
  if (!answer.ids_only) {
    std::ranges::copy(answer.chosen, chosen.begin());
    return;
  }
  for (size_t i = 0; i < chosen.size(); ++i) chosen[i].token = answer.chosen[i].token;
}

size_t HostChoices::bytes() const {
  size_t bytes = samplers_.capacity() * sizeof(HostSampler);
  for (const HostSampler& sampler : samplers_) bytes += sampler.scratch_bytes();
  for (const Answer& answer : answers_) bytes += answer.chosen.capacity() * sizeof(ChosenToken);
  return bytes;
}

size_t HostChoices::MostBytes(const StepLimits& limits, int num_threads) {
  const auto samplers = static_cast<size_t>(MostSamplers(num_threads));
  const auto choices = static_cast<size_t>(std::max(limits.logit_rows, limits.sequences));
  return samplers * (sizeof(HostSampler) + HostSampler::MostScratchBytes(limits.vocab_size)) +
         Backend::kMostUntaken * choices * sizeof(ChosenToken);
}

}  // namespace strata::kernels
