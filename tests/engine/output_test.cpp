// Ends of an output and its contents: end tokens, no tokens at all, allowed ids, bad words.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/hash_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::output_test {
namespace {

using engine::FinishReason;

class OutputTest : public ::testing::Test {
 protected:
  EngineRunner Runner(engine::EngineOptions options = {}) {
    options.model_dir = dir_;
    options.device = "cpu";
    options.threads = 1;
    return EngineRunner(options);
  }
  Recording Run(engine::Request request) {
    EngineRunner runner = Runner();
    request.id = "a";
    EXPECT_TRUE(runner.Submit(std::move(request)).ok());
    runner.Run();
    EXPECT_EQ(runner.core().cache().usage().blocks_used, 0);
    return runner["a"];
  }
  engine::Request Make(engine::SamplingParams sampling) {
    engine::Request request;
    request.prompt = RandomPrompt(1, 9, 96);
    request.sampling = std::move(sampling);
    return request;
  }

  ScratchDir scratch_;
  const std::filesystem::path dir_ =
      WriteModelDir(MakeTinyModel({.cross_layer = {{"preset", "svformer"}}}), scratch_.path());
};

TEST_F(OutputTest, TheTokenThatEndsItIsToldWithItsLogprobsAndIsNoPartOfIt) {
  engine::SamplingParams params = Greedy(12);
  params.logprobs = 2;
  const Recording whole = Run(Make(params));
  ASSERT_EQ(whole.tokens.size(), 12U);
  EXPECT_FALSE(whole.end.end_token);
  EXPECT_EQ(whole.end.reason, FinishReason::kLength);

  params.stop_ids = {whole.tokens[4]};
  engine::Request request = Make(params);
  request.attention = {{.layer = 0, .head = 0}};
  const Recording ended = Run(std::move(request));
  const size_t first = static_cast<size_t>(
      std::find(whole.tokens.begin(), whole.tokens.end(), whole.tokens[4]) - whole.tokens.begin());
  EXPECT_EQ(ended.tokens, std::vector(whole.tokens.begin(),
                                      whole.tokens.begin() + static_cast<std::ptrdiff_t>(first)));
  EXPECT_EQ(ended.end.reason, FinishReason::kStop);
  EXPECT_EQ(ended.end.metrics.generated_tokens, static_cast<int32_t>(first));
  ASSERT_TRUE(ended.end.end_token);
  EXPECT_EQ(ended.end.end_token->token, whole.tokens[4]);
  EXPECT_EQ(ended.end.end_token->position, 9 + static_cast<int32_t>(first));
  EXPECT_EQ(ended.end.end_token->attention.size(), 9 + first);
  ASSERT_TRUE(ended.end.end_token->logprobs);
  EXPECT_EQ(ended.end.end_token->logprobs->logprob, whole.token_logprobs[first]->logprob);
  EXPECT_EQ(ended.end.end_token->logprobs->top.size(), 2U);
}

TEST_F(OutputTest, AnEndOfSequenceThatComesFirstIsToldToo) {
  engine::SamplingParams params = Greedy(12);
  params.ignore_eos = false;
  params.logit_bias = {{.id = 0, .bias = 100}};  // the model's end of sequence
  params.logprobs = 0;
  const Recording ended = Run(Make(params));
  EXPECT_TRUE(ended.tokens.empty());
  ASSERT_TRUE(ended.end.end_token);
  EXPECT_EQ(ended.end.end_token->token, 0);
  EXPECT_TRUE(ended.end.end_token->logprobs);
}

TEST_F(OutputTest, NoTokensAtAll) {
  const Recording whole = Run(Make(Greedy(5)));
  engine::Request request = Make(Greedy(0));
  request.prompt_logprobs = 1;
  const Recording none = Run(request);
  EXPECT_EQ(none.num_started, 1);
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.end.reason, FinishReason::kLength);
  EXPECT_TRUE(none.end.status.ok());
  EXPECT_EQ(none.end.metrics.generated_tokens, 0);
  EXPECT_EQ(none.prompt_logprobs.size(), 8U);
  request.sampling.max_tokens = 5;
  EXPECT_EQ(Run(request).tokens, whole.tokens);

  request = Make(Greedy(0));
  request.n = 3;
  Recording several = Run(request);
  EXPECT_EQ(several.num_finished, 1);
  EXPECT_EQ(several.others.at(2).num_finished, 1);
  EXPECT_TRUE(several.others.at(2).tokens.empty());
}

TEST_F(OutputTest, HoldsAllowedIdsAlone) {
  const engine::SamplingParams params = {.temperature = 50,
                                         .allowed_ids = {7, 3, 50},
                                         .seed = 5,
                                         .max_tokens = 60,
                                         .ignore_eos = true};
  const Recording recording = Run(Make(params));
  EXPECT_EQ(std::set(recording.tokens.begin(), recording.tokens.end()), (std::set{3, 7, 50}));
}

// Whether the output holds the sequence.
bool Holds(const std::vector<int32_t>& output, const std::vector<int32_t>& word) {
  return std::search(output.begin(), output.end(), word.begin(), word.end()) != output.end();
}

TEST_F(OutputTest, HoldsNoBadWord) {
  const engine::SamplingParams free = {.temperature = 50,
                                       .allowed_ids = {7, 3, 50},
                                       .seed = 5,
                                       .max_tokens = 200,
                                       .ignore_eos = true};
  engine::SamplingParams params = free;
  params.bad_words = {{7, 3}, {3, 3, 3}, {50, 7, 50}};
  const std::vector<int32_t> before = Run(Make(free)).tokens;
  const std::vector<int32_t> after = Run(Make(params)).tokens;
  for (const auto& word : params.bad_words) {
    EXPECT_TRUE(Holds(before, word));
    EXPECT_FALSE(Holds(after, word));
  }
  EXPECT_TRUE(Holds(after, {3, 7}));
  EXPECT_EQ(after.size(), 200U);
}

// No step starts early whose choices depend on the token before, or may need the host.
TEST_F(OutputTest, BadWordsAndAllowedIdsHoldOnAnAsynchronousBackend) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(
      MakeTinyModel(
          {.attention = {.num_layers = 1, .num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8},
           .hidden_size = 8,
           .intermediate_size = 8}),
      scratch.path());
  const auto run = [&](bool asynchronous, const engine::SamplingParams& params) {
    engine::EngineOptions options;
    options.model_dir = dir;
    auto core = engine::EngineCore::Create(options, MakeHashBackend({}, asynchronous));
    EXPECT_TRUE(core.ok()) << core.status();
    const auto recording = std::make_shared<Recording>();
    engine::Request request = Make(params);
    request.id = "a";
    EXPECT_TRUE((*core)->Validate(request).ok());
    (*core)->Add(std::move(request), recording, std::chrono::steady_clock::now());
    while ((*core)->HasWork()) (*core)->Step();
    if (asynchronous && params.bad_words.empty() && params.allowed_ids.empty()) {
      EXPECT_GT((*core)->steps_ahead(), 0);
    } else {
      EXPECT_EQ((*core)->steps_ahead(), 0);
    }
    return recording->tokens;
  };
  const std::vector<int32_t> free = run(true, Greedy(40));
  EXPECT_EQ(free, run(false, Greedy(40)));
  engine::SamplingParams params = Greedy(40);
  params.bad_words = {{free[0], free[1]}, {free[20]}};
  const std::vector<int32_t> barred = run(true, params);
  EXPECT_EQ(barred, run(false, params));
  for (const auto& word : params.bad_words) EXPECT_FALSE(Holds(barred, word));
  params.allowed_ids = {1, 2, 3};
  const std::vector<int32_t> allowed = run(true, params);
  EXPECT_EQ(allowed, run(false, params));
  EXPECT_LE(*std::max_element(allowed.begin(), allowed.end()), 3);
}

}  // namespace
}  // namespace strata::testing::output_test
