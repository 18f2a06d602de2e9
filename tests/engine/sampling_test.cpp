// Penalties, bias, min_tokens and logprobs: the effect of each on a choice, and their way through
// the engine.
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/sampler.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::sampling_test {
namespace {

using engine::FinishReason;
using engine::SamplingParams;
using engine::TokenHistory;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TokenHistory HistoryOf(const SamplingParams& params, const std::vector<int32_t>& prompt,
                       const std::vector<int32_t>& output) {
  TokenHistory history(params, prompt);
  for (const int32_t id : output) history.AddOutput(id);
  return history;
}

int32_t GreedyPick(const std::vector<float>& logits, SamplingParams params,
                   const std::vector<int32_t>& prompt, const std::vector<int32_t>& output) {
  params.temperature = 0;
  Sampler sampler;
  const TokenHistory history = HistoryOf(params, prompt, output);
  return sampler.Sample(logits, params, {.history = history}).token;
}

TEST(SamplingTest, RepetitionPenaltyActsOnPromptAndOutput) {
  const std::vector<float> logits = {3, 2.5F, 2, -4};
  const SamplingParams params = {.repetition_penalty = 2};
  EXPECT_EQ(GreedyPick(logits, params, {3}, {}), 0);
  EXPECT_EQ(GreedyPick(logits, params, {0}, {}), 1);
  EXPECT_EQ(GreedyPick(logits, params, {0, 0, 0}, {1}), 2);
  // Applied once, however often a token came; 3 / 2 = 1.5 and 2 / 2 = 1.
  EXPECT_EQ(GreedyPick(logits, params, {0, 0, 0, 1, 2}, {0, 0}), 0);
  // Negative logits are multiplied.
  EXPECT_EQ(GreedyPick({-3, -4}, params, {0}, {}), 1);
  EXPECT_EQ(GreedyPick({-3, -4}, {.repetition_penalty = 0.5F}, {1}, {}), 1);
}

TEST(SamplingTest, FrequencyAndPresencePenaltiesActOnOutputOnly) {
  const std::vector<float> logits = {3, 2.5F, 0};
  EXPECT_EQ(GreedyPick(logits, {.frequency_penalty = 0.2F}, {0, 0, 0, 0}, {0, 0}), 0);  // 2.6
  EXPECT_EQ(GreedyPick(logits, {.frequency_penalty = 0.2F}, {}, {0, 0, 0}), 1);         // 2.4
  EXPECT_EQ(GreedyPick(logits, {.presence_penalty = 0.4F}, {0}, {0, 0, 0}), 0);         // 2.6
  EXPECT_EQ(GreedyPick(logits, {.presence_penalty = 0.6F}, {0}, {}), 0);
  EXPECT_EQ(GreedyPick(logits, {.presence_penalty = 0.6F}, {0}, {0}), 1);
  EXPECT_EQ(GreedyPick(logits, {.frequency_penalty = -2}, {}, {2, 2}), 2);
}

TEST(SamplingTest, HistoryIsKeptForPenaltiesOnly) {
  const std::vector<int32_t> prompt = {5, 5, 6};
  EXPECT_TRUE(HistoryOf({.logit_bias = {{}}, .logprobs = 3}, prompt, {7}).entries().empty());
  EXPECT_EQ(HistoryOf({.presence_penalty = 1}, prompt, {7, 7}).entries().size(), 1U);
  const TokenHistory all = HistoryOf({.repetition_penalty = 1.1F}, prompt, {7, 5, 7});
  ASSERT_EQ(all.entries().size(), 3U);
  EXPECT_EQ(all.entries()[0].generated, 1);
  EXPECT_EQ(all.entries()[1].generated, 0);
  EXPECT_EQ(all.entries()[2].generated, 2);
}

TEST(SamplingTest, ABiasOfMinus100BarsAndOfPlus100Forces) {
  const std::vector<float> logits = {5, 1, -2, 4};
  Sampler sampler;
  const TokenHistory none;
  SamplingParams params = {.logit_bias = {{.id = 0, .bias = -100}, {.id = 2, .bias = 3}}};
  std::set<int32_t> drawn;
  for (int i = 0; i < 1000; ++i) {
    drawn.insert(sampler.Sample(logits, params, {.history = none, .uniform = i / 1000.0}).token);
  }
  EXPECT_EQ(drawn, (std::set<int32_t>{1, 2, 3}));
  params.logit_bias = {{.id = 2, .bias = 100}};
  EXPECT_EQ(sampler.Sample(logits, params, {.history = none, .uniform = 0.999}).token, 2);
}

TEST(SamplingTest, NothingMakesAnImpossibleTokenPossibleOrTheOtherWayRound) {
  const SamplingParams params = {
      .temperature = 0,
      .repetition_penalty = 0.01F,
      .logit_bias = {{.id = 0, .bias = 1e30F}, {.id = 1, .bias = 3e38F}}};
  EXPECT_EQ(GreedyPick({kInfinity, 3e38F, 7}, params, {0, 1}, {}), 1);
  EXPECT_EQ(GreedyPick({-kInfinity, -1}, params, {0}, {}), 1);
}

TEST(SamplingTest, MinTokensBarsEndAndStopIdsUntilAsManyAreMade) {
  const std::vector<float> logits = {9, 8, 7, 6};
  const std::vector<int32_t> eos = {0};
  const TokenHistory none;
  SamplingParams params = {.temperature = 0, .min_tokens = 2, .stop_ids = {1}};
  const auto pick = [&](int32_t generated) {
    return Sampler()
        .Sample(logits, params, {.history = none, .eos_ids = eos, .num_generated = generated})
        .token;
  };
  EXPECT_EQ(pick(0), 2);
  EXPECT_EQ(pick(1), 2);
  EXPECT_EQ(pick(2), 0);
  params.ignore_eos = true;  // an end-of-sequence id is then a token like any other
  EXPECT_EQ(pick(0), 0);
}

TEST(SamplingTest, LogprobsAreOfTheModelsOwnDistribution) {
  const std::vector<float> logits = {2, 1, 0};
  const SamplingParams params = {.temperature = 0,
                                 .repetition_penalty = 5,
                                 .logit_bias = {{.id = 2, .bias = 50}},
                                 .logprobs = 2};
  const TokenHistory history = HistoryOf(params, {0, 1}, {});
  const SampledToken sampled = Sampler().Sample(logits, params, {.history = history});
  EXPECT_EQ(sampled.token, 2);
  ASSERT_TRUE(sampled.logprobs);
  EXPECT_EQ(sampled.logprobs->rank, 3);
  EXPECT_FLOAT_EQ(sampled.logprobs->logprob, LogprobsOf(logits, 2, 0).logprob);
  ASSERT_EQ(sampled.logprobs->top.size(), 2U);
  EXPECT_EQ(sampled.logprobs->top[0].id, 0);
}

// A model, and the way from parameters to a sink's events.
class SamplingInEngineTest : public ::testing::Test {
 protected:
  SamplingInEngineTest()
      : runner_({.model_dir = dir_, .device = "cpu", .threads = 1, .cross_layer = {}}) {}

  const Recording& Generate(const SamplingParams& params) {
    const std::string id = std::to_string(count_++);
    runner_.MustSubmit(id, prompt_, params);
    runner_.Run();
    return runner_[id];
  }

  ScratchDir scratch_;
  const std::filesystem::path dir_ = WriteModelDir(MakeTinyModel({}), scratch_.path());
  const std::vector<int32_t> prompt_ = RandomPrompt(3, 20, 96);
  EngineRunner runner_;
  int count_ = 0;
};

TEST_F(SamplingInEngineTest, NeutralParametersChangeNoToken) {
  SamplingParams params = {.seed = 5, .max_tokens = 30, .ignore_eos = true};
  const std::vector<int32_t> plain = Generate(params).tokens;
  params.logit_bias = {{.id = 7, .bias = 0}};
  EXPECT_EQ(Generate(params).tokens, plain);
  params.logprobs = 4;
  EXPECT_EQ(Generate(params).tokens, plain);
  params.min_tokens = 30;
  EXPECT_EQ(Generate(params).tokens, plain);
}

TEST_F(SamplingInEngineTest, ThePenaltySeesPromptAndOutput) {
  SamplingParams params = Greedy(40);
  params.repetition_penalty = 100;
  params.presence_penalty = 2;
  const Recording& recording = Generate(params);
  const std::set<int32_t> different(recording.tokens.begin(), recording.tokens.end());
  EXPECT_EQ(different.size(), recording.tokens.size());  // of 96, none comes twice
  for (const int32_t id : prompt_) EXPECT_FALSE(different.contains(id));
}

TEST_F(SamplingInEngineTest, AStopIdWaitsForMinTokens) {
  const std::vector<int32_t> free = Generate(Greedy(40)).tokens;
  SamplingParams params = Greedy(40);
  params.stop_ids = {free[0]};
  EXPECT_TRUE(Generate(params).tokens.empty());
  params.min_tokens = 5;
  const Recording& recording = Generate(params);
  EXPECT_GE(recording.tokens.size(), 5U);
  EXPECT_EQ(std::count(recording.tokens.begin(), recording.tokens.end(), free[0]), 0);
}

TEST_F(SamplingInEngineTest, LogprobsComeWithTheirToken) {
  EXPECT_FALSE(Generate(Greedy(3)).token_logprobs[0]);
  SamplingParams params = Greedy(10);
  params.logprobs = 3;
  const Recording& recording = Generate(params);
  ASSERT_EQ(recording.token_logprobs.size(), 10U);
  for (size_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(recording.token_logprobs[i]);
    EXPECT_EQ(recording.token_logprobs[i]->rank, 1);
    ASSERT_EQ(recording.token_logprobs[i]->top.size(), 3U);
    EXPECT_EQ(recording.token_logprobs[i]->top[0].id, recording.tokens[i]);
    EXPECT_EQ(recording.token_logprobs[i]->logprob,
              LogprobsOf(recording.logits[i], recording.tokens[i], 0).logprob);
  }
}

}  // namespace
}  // namespace strata::testing::sampling_test
