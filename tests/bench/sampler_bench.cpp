// The time to choose a token, in nanoseconds a logit, for each kind of parameters.
//
//   build/bin/strata-sampler-bench
//
// Logits are normal with a standard deviation of 3; medians over draws with different numbers.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "engine/decode/token_choice.h"
#include "tests/support/sampler.h"

namespace strata::engine {
namespace {

constexpr int kDraws = 41;
constexpr int kHistory = 1000;  // distinct tokens that penalties touch

struct Kind {
  std::string name;
  SamplingParams params;
};

std::vector<Kind> Kinds() {
  std::vector<Kind> kinds = {
      {"greedy", {.temperature = 0}},
      {"temperature 1", {.temperature = 1}},
      {"top-k 50", {.top_k = 50}},
      {"top-p 0.9", {.top_p = 0.9F}},
      {"min-p 0.05", {.min_p = 0.05F}},
      {"top-k 50, top-p 0.9, temperature 0.7", {.temperature = 0.7F, .top_k = 50, .top_p = 0.9F}},
      {"greedy, three penalties",
       {.temperature = 0,
        .repetition_penalty = 1.1F,
        .frequency_penalty = 0.1F,
        .presence_penalty = 0.1F}},
      {"greedy, logprobs", {.temperature = 0, .logprobs = 0}},
      {"greedy, 20 top logprobs", {.temperature = 0, .logprobs = 20}},
  };
  return kinds;
}

double NanosecondsPerLogit(const SamplingParams& params, size_t vocab) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  TokenHistory history(params, {});
  for (int i = 0; i < kHistory; ++i) history.AddOutput(static_cast<int32_t>(random() % vocab));
  testing::Sampler sampler;
  std::vector<double> nanoseconds;
  int64_t sum = 0;  // keeps the compiler from dropping draws
  for (int draw = 0; draw < kDraws; ++draw) {
    const double uniform = UniformAt(1, 0, static_cast<uint64_t>(draw));
    const auto begin = std::chrono::steady_clock::now();
    sum += sampler.Sample(logits, params, {.history = history, .uniform = uniform}).token;
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
    nanoseconds.push_back(spent.count() / static_cast<double>(vocab));
  }
  if (sum < 0) std::abort();
  std::nth_element(nanoseconds.begin(), nanoseconds.begin() + kDraws / 2, nanoseconds.end());
  return nanoseconds[kDraws / 2];
}

}  // namespace
}  // namespace strata::engine

int main() {
  using namespace strata::engine;
  const std::vector<size_t> vocabs = {2048, 49152, 152064};
  std::printf("nanoseconds a logit, median of %d draws\n%-38s", kDraws, "vocabulary");
  for (const size_t vocab : vocabs) std::printf(" %8zu", vocab);
  std::printf("\n");
  for (const Kind& kind : Kinds()) {
    std::printf("%-38s", kind.name.c_str());
    for (const size_t vocab : vocabs)
      std::printf(" %8.2f", NanosecondsPerLogit(kind.params, vocab));
    std::printf("\n");
  }
}
