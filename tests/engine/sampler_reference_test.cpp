// The sampler against a straightforward one in double precision that sorts everything.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "engine/decode/token_choice.h"
#include "gtest/gtest.h"
#include "tests/support/sampler.h"

namespace strata::engine::sampler_reference_test {
namespace {

using testing::SampledToken;
using testing::Sampler;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One case: a sequence, its parameters, and the logits after it.
struct Case {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;
  std::vector<int32_t> eos_ids;
  double uniform = 0;
};

std::vector<double> AdjustedLogits(const Case& c) {
  std::vector<double> logits(c.logits.begin(), c.logits.end());
  std::map<int32_t, int> seen;  // id -> times generated
  for (const int32_t id : c.prompt) seen[id] += 0;
  for (const int32_t id : c.output) ++seen[id];
  const auto at = [&](int32_t id) -> double& { return logits[static_cast<size_t>(id)]; };
  for (const auto& [id, times] : seen) {
    const double penalty = c.params.repetition_penalty;
    at(id) = at(id) > 0 ? at(id) / penalty : at(id) * penalty;
    at(id) -= double{c.params.frequency_penalty} * times;
    if (times > 0) at(id) -= c.params.presence_penalty;
  }
  for (const LogitBias& bias : c.params.logit_bias) at(bias.id) += bias.bias;
  if (std::ssize(c.output) < c.params.min_tokens) {
    if (!c.params.ignore_eos) {
      for (const int32_t id : c.eos_ids) at(id) = -kInfinity;
    }
    for (const int32_t id : c.params.stop_ids) at(id) = -kInfinity;
  }
  return logits;
}

int32_t Expected(const Case& c) {
  const std::vector<double> logits = AdjustedLogits(c);
  std::vector<int32_t> order;
  for (int32_t id = 0; id < std::ssize(logits); ++id) order.push_back(id);
  const auto of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return of(a) > of(b); });
  if (std::isinf(of(order[0]))) return 0;  // every id is barred
  if (c.params.temperature == 0) return order[0];
  std::vector<double> weights;
  for (const int32_t id : order) {
    weights.push_back(std::exp((of(id) - of(order[0])) / double{c.params.temperature}));
  }
  size_t count = 0;
  while (count < weights.size() && weights[count] > 0 && weights[count] >= c.params.min_p) ++count;
  if (c.params.top_k > 0) count = std::min(count, static_cast<size_t>(c.params.top_k));
  double total = 0;
  for (size_t i = 0; i < count; ++i) total += weights[i];
  double kept = 0;
  size_t fewest = 0;
  while (fewest < count && kept < total * double{c.params.top_p}) kept += weights[fewest++];
  double sum = 0;
  for (size_t i = 0; i < fewest; ++i) {
    sum += weights[i];
    if (c.uniform * kept < sum) return order[i];
  }
  return order[fewest - 1];
}

class Cases {
 public:
  Case Next() {
    Case c;
    const size_t vocab = 2 + random_() % 1500;
    c.logits.resize(vocab);
    std::normal_distribution<float> normal(0, One() < 0.3 ? 0.2F : 3);
    for (float& logit : c.logits) logit = normal(random_);
    c.prompt = Ids(vocab, 1 + random_() % 30);
    c.output = Ids(vocab, random_() % 30);
    c.eos_ids = Ids(vocab, random_() % 2);
    SamplingParams& params = c.params;
    if (Often()) params.temperature = Often() ? static_cast<float>(2 * One()) : 0;
    if (Often()) params.top_k = static_cast<int32_t>(random_() % vocab);
    if (Often()) params.top_p = static_cast<float>(1 - One());
    if (Often()) params.min_p = static_cast<float>(0.2 * One());
    if (Often()) params.repetition_penalty = static_cast<float>(0.5 + One());
    if (Often()) params.frequency_penalty = static_cast<float>(4 * One() - 2);
    if (Often()) params.presence_penalty = static_cast<float>(4 * One() - 2);
    if (Often()) {
      for (const int32_t id : Ids(vocab, 5)) {
        params.logit_bias.push_back({.id = id, .bias = static_cast<float>(20 * One() - 10)});
      }
    }
    if (Often()) params.stop_ids = Ids(vocab, 3);
    if (Often()) params.min_tokens = static_cast<int32_t>(random_() % 40);
    params.ignore_eos = Often();
    c.uniform = One();
    return c;
  }

 private:
  double One() { return std::uniform_real_distribution<>(0, 1)(random_); }
  bool Often() { return random_() % 2 == 0; }
  std::vector<int32_t> Ids(size_t vocab, size_t count) {
    std::vector<int32_t> ids(count);
    // Mostly from a few ids, so that ids repeat.
    for (int32_t& id : ids)
      id = static_cast<int32_t>(random_() % (Often() ? vocab : 1 + vocab / 9));
    return ids;
  }

  std::mt19937_64 random_{20250611};
};

SampledToken SampleCase(Sampler* sampler, const Case& c) {
  TokenHistory history(c.params, c.prompt);
  for (const int32_t id : c.output) history.AddOutput(id);
  const TokenHistory forked = history;  // as for a second sequence of the prompt
  history.AddOutput(0);
  return sampler->Sample(c.logits, c.params,
                         {.history = forked,
                          .eos_ids = c.eos_ids,
                          .num_generated = static_cast<int32_t>(c.output.size()),
                          .uniform = c.uniform});
}

TEST(SamplerReferenceTest, ChoosesTheSameTokens) {
  Cases cases;
  Sampler sampler;
  for (int i = 0; i < 4000; ++i) {
    const Case c = cases.Next();
    // The two round differently: a draw within 1e-6 of a border, or logits as close, could differ.
    // These seeds meet none.
    ASSERT_EQ(SampleCase(&sampler, c).token, Expected(c)) << "case " << i;
  }
}

TEST(SamplerReferenceTest, AloneOrAfterOthersTheBitsAreTheSame) {
  Cases cases;
  Sampler shared;
  for (int i = 0; i < 500; ++i) {
    Case c = cases.Next();
    c.params.logprobs = i % 4;
    Sampler fresh;
    const SampledToken one = SampleCase(&shared, c);
    const SampledToken other = SampleCase(&fresh, c);
    ASSERT_EQ(one.token, other.token);
    ASSERT_TRUE(one.logprobs && other.logprobs);
    EXPECT_EQ(one.logprobs->logprob, other.logprobs->logprob);
    EXPECT_EQ(one.logprobs->rank, other.logprobs->rank);
    ASSERT_EQ(one.logprobs->top.size(), other.logprobs->top.size());
    for (size_t k = 0; k < one.logprobs->top.size(); ++k) {
      EXPECT_EQ(one.logprobs->top[k].id, other.logprobs->top[k].id);
      EXPECT_EQ(one.logprobs->top[k].logprob, other.logprobs->top[k].logprob);
    }
  }
}

}  // namespace
}  // namespace strata::engine::sampler_reference_test
