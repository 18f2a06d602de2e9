// Many requests in one core: order of admission, products of a step, ends of requests.
#include <algorithm>
#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::batching_test {
namespace {

using engine::FinishReason;
using engine::SamplingParams;
using ::testing::Test;

constexpr int32_t kBlockTokens = 8;
constexpr int32_t kMaxPositions = 256;

class BatchingTest : public Test {
 protected:
  static TinyModel Model() {
    return MakeTinyModel({.max_positions = kMaxPositions, .cross_layer = {{"preset", "svformer"}}});
  }

  // A cache of exactly this many blocks.
  static engine::EngineOptions Options(const std::filesystem::path& dir, int32_t blocks) {
    // svformer, 4 layers: K of 4 layers and V of one, 4 kv heads of 8 floats.
    const size_t block_bytes = size_t{5} * 4 * 8 * sizeof(float) * kBlockTokens;
    return {.model_dir = dir,
            .device = "cpu",
            .threads = 1,
            .cross_layer = {},
            .cache_bytes = block_bytes * static_cast<size_t>(blocks) + block_bytes - 1,
            .block_tokens = kBlockTokens,
            .max_batch_tokens = 256,
            .max_prefill_chunk = 16};
  }

  static std::vector<int32_t> Prompt(int32_t length) { return RandomPrompt(9, length, 96); }

  EngineRunner MakeRunner(int32_t blocks, int32_t max_running = 256) {
    engine::EngineOptions options = Options(dir_, blocks);
    options.max_running = max_running;
    return EngineRunner(options);
  }

  int64_t ProductsOfAStep(EngineRunner& runner) {
    const int64_t before = runner.core().backend().counters().matrix_products;
    runner.Step();
    return runner.core().backend().counters().matrix_products - before;
  }

  ScratchDir scratch_;
  const std::filesystem::path dir_ = WriteModelDir(Model(), scratch_.path());
};

TEST_F(BatchingTest, SixtyFourStreamsCostTheProductsOfOne) {
  EngineRunner one = MakeRunner(512);
  one.MustSubmit("0", Prompt(12), Greedy(20));
  EngineRunner many = MakeRunner(512);
  for (int32_t i = 0; i < 64; ++i) {
    many.MustSubmit(std::to_string(i), RandomPrompt(static_cast<uint64_t>(i), 1 + i % 40, 96),
                    Greedy(20 + i % 7));
  }
  const int64_t products = ProductsOfAStep(one);  // a prefill that ends with logits
  EXPECT_GT(products, 0);
  EXPECT_EQ(ProductsOfAStep(one), products);  // a decode
  size_t most_running = 0;
  while (many.core().HasWork()) {
    EXPECT_LE(ProductsOfAStep(many), products);
    most_running = std::max(most_running, many.core().scheduler().running().size());
  }
  EXPECT_EQ(most_running, 64U);
  EXPECT_EQ(many.blocks_used(), 0);
  for (int32_t i = 0; i < 64; ++i) {
    const Recording& recording = many[std::to_string(i)];
    EXPECT_TRUE(recording.in_order);
    EXPECT_EQ(recording.num_finished, 1);
    EXPECT_EQ(recording.end.reason, FinishReason::kLength);
    EXPECT_EQ(recording.tokens.size(), static_cast<size_t>(20 + i % 7));
  }
}

TEST_F(BatchingTest, WhoWaitsForRowsHoldsNoBlocksAndFindsMoreOfItsPrompt) {
  engine::EngineOptions options = Options(dir_, 256);
  options.max_batch_tokens = options.max_prefill_chunk = 64;
  EngineRunner runner(options);
  for (const char* id : {"0", "1", "2", "3"}) runner.MustSubmit(id, Prompt(200), Greedy(4));
  runner.Step();
  EXPECT_EQ(runner.core().scheduler().running().size(), 1U);
  EXPECT_EQ(runner.core().scheduler().waiting().size(), 3U);
  EXPECT_EQ(runner.blocks_used(), 200 / kBlockTokens);
  runner.Run();
  EXPECT_EQ(runner["0"].end.metrics.cached_tokens, 0);
  for (const char* id : {"1", "2", "3"}) {
    EXPECT_GE(runner[id].end.metrics.cached_tokens, 3 * 64) << id;
    EXPECT_EQ(runner[id].tokens, runner["0"].tokens);
  }
}

TEST_F(BatchingTest, AForkWithoutRoomIsCountedAsPreempted) {
  EngineRunner runner = MakeRunner(3);
  runner.MustSubmit("two blocks", Prompt(12), Greedy(4));
  engine::Request pair;
  pair.id = "pair";
  pair.prompt = Prompt(5);
  pair.sampling = Greedy(3);
  pair.n = 2;
  ASSERT_TRUE(runner.Submit(pair).ok());
  runner.Step();
  EXPECT_EQ(runner.core().scheduler().waiting().size(), 1U);
  runner.Run();
  EXPECT_EQ(runner["pair"].end.metrics.preemptions, 0);
  EXPECT_EQ(runner["pair"].others.at(1).end.metrics.preemptions, 1);
  EXPECT_EQ(runner["pair"].others.at(1).tokens, runner["pair"].tokens);
}

TEST_F(BatchingTest, NoMoreRunThanAStepHasRows) {
  engine::EngineOptions options = Options(dir_, 256);
  options.max_batch_tokens = options.max_prefill_chunk = 8;
  EngineRunner runner(options);
  for (int32_t i = 0; i < 20; ++i) runner.MustSubmit(std::to_string(i), Prompt(2), Greedy(20));
  size_t most_running = 0;
  while (runner.core().HasWork()) {
    runner.Step();
    most_running = std::max(most_running, runner.core().scheduler().running().size());
  }
  EXPECT_EQ(most_running, 8U);
  for (int32_t i = 0; i < 20; ++i) EXPECT_EQ(runner[std::to_string(i)].tokens.size(), 20U);
}

TEST_F(BatchingTest, CancelInEveryStateFreesTheBlocksAtOnce) {
  EngineRunner runner = MakeRunner(64, /*max_running=*/2);
  runner.MustSubmit("decoding", Prompt(5), Greedy(50));
  runner.MustSubmit("prefilling", Prompt(60), Greedy(10));
  runner.MustSubmit("queued", Prompt(5), Greedy(10));
  const absl::Status status = absl::CancelledError("test");
  runner.Step();
  runner.Step();
  const auto& cache = runner.core().cache();
  const int32_t blocks_decoding = cache.BlocksFor(5 + 1);
  const int32_t blocks_prefilling = cache.BlocksFor(60);  // all of the prompt's blocks at once
  EXPECT_EQ(runner["decoding"].tokens.size(), 2U);
  EXPECT_EQ(runner["prefilling"].num_started, 1);
  EXPECT_EQ(runner["prefilling"].tokens.size(), 0U);
  ASSERT_EQ(runner.blocks_used(), blocks_decoding + blocks_prefilling);

  const auto cancel = [&](const std::string& id) {
    EXPECT_TRUE(runner.core().Finish(id, FinishReason::kCancelled, status));
    EXPECT_TRUE(runner.core().CheckIntegrity().ok());
    EXPECT_TRUE(runner[id].in_order);
    EXPECT_EQ(runner[id].num_finished, 1);
    EXPECT_EQ(runner[id].end.reason, FinishReason::kCancelled);
    EXPECT_EQ(runner[id].end.status, status);
    EXPECT_FALSE(runner.core().Finish(id, FinishReason::kCancelled, status));  // no longer known
  };
  cancel("queued");
  EXPECT_EQ(runner["queued"].num_started, 0);
  EXPECT_EQ(runner.blocks_used(), blocks_decoding + blocks_prefilling);
  cancel("prefilling");
  EXPECT_EQ(runner.blocks_used(), blocks_decoding);
  runner.Step();
  EXPECT_EQ(runner["decoding"].tokens.size(), 3U);
  cancel("decoding");
  EXPECT_EQ(runner["decoding"].end.metrics.generated_tokens, 3);
  EXPECT_EQ(runner.blocks_used(), 0);
  EXPECT_FALSE(runner.core().HasWork());
}

TEST_F(BatchingTest, FinishAllEndsWaitingAndRunning) {
  EngineRunner runner = MakeRunner(64, /*max_running=*/2);
  for (const char* id : {"a", "b", "c", "d"}) runner.MustSubmit(id, Prompt(5), Greedy(10));
  runner.Step();
  runner.core().FinishAll(FinishReason::kError, absl::UnavailableError("test"));
  EXPECT_FALSE(runner.core().HasWork());
  EXPECT_EQ(runner.blocks_used(), 0);
  EXPECT_TRUE(runner.core().CheckIntegrity().ok());
  for (const char* id : {"a", "b", "c", "d"}) {
    EXPECT_EQ(runner[id].num_finished, 1) << id;
    EXPECT_EQ(runner[id].end.reason, FinishReason::kError) << id;
    EXPECT_TRUE(absl::IsUnavailable(runner[id].end.status)) << id;
  }
}

// The refusal names field, value and limit.
TEST_F(BatchingTest, WhatCanNeverRunIsRefused) {
  EngineRunner runner = MakeRunner(10);  // 80 tokens
  const auto refusal = [&](std::vector<int32_t> prompt, const SamplingParams& sampling) {
    const absl::Status status = runner.Submit("never", std::move(prompt), sampling);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  const auto expect_parts = [](const std::string& message, std::vector<std::string> parts) {
    for (const std::string& part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << part << " in " << message;
    }
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  expect_parts(refusal(Prompt(50), Greedy(32)), {"max_tokens", "32", "50", "80"});
  expect_parts(refusal(Prompt(81), Greedy(1)), {"prompt", "81", "80"});
  expect_parts(refusal({}, Greedy(4)), {"prompt", "0", "1"});
  expect_parts(refusal({1, 2, 96}, Greedy(4)), {"prompt", "96", "95"});
  expect_parts(refusal({1, -1}, Greedy(4)), {"prompt", "-1", "95"});
  expect_parts(refusal({1}, Greedy(-3)), {"max_tokens", "-3", "0"});
  expect_parts(refusal({1}, Greedy(std::numeric_limits<int32_t>::max())),
               {"max_tokens", "2147483647"});
  expect_parts(refusal({1}, {.temperature = -0.5F}), {"temperature", "-0.5", "0"});
  expect_parts(refusal({1}, {.temperature = kNan}), {"temperature", "nan"});
  expect_parts(refusal({1}, {.top_k = -1}), {"top_k", "-1", "0"});
  expect_parts(refusal({1}, {.top_p = -0.5F}), {"top_p", "-0.5", "0", "1"});
  expect_parts(refusal({1}, {.top_p = 1.5F}), {"top_p", "1.5", "1"});
  expect_parts(refusal({1}, {.top_p = kNan}), {"top_p", "nan"});
  expect_parts(refusal({1}, {.min_p = -0.1F}), {"min_p", "-0.1"});
  expect_parts(refusal({1}, {.min_p = kNan}), {"min_p", "nan"});
  expect_parts(refusal({1}, {.max_tokens = 4, .stop_ids = {96}}), {"stop", "96", "95"});
  // 80 positions get an entry: the last token is never run.
  runner.MustSubmit("just", Prompt(50), Greedy(31));
  runner.Run();
  EXPECT_EQ(runner["just"].tokens.size(), 31U);

  EngineRunner roomy = MakeRunner(512);
  const absl::Status over = roomy.Submit("over", Prompt(200), Greedy(57));
  EXPECT_TRUE(absl::IsInvalidArgument(over));
  expect_parts(std::string(over.message()), {"max_tokens", "57", "200", "256"});
  roomy.MustSubmit("all positions", Prompt(200), Greedy(56));
  roomy.Run();
  EXPECT_EQ(roomy["all positions"].tokens.size(), 56U);
}

TEST_F(BatchingTest, FinishReasons) {
  EngineRunner runner = MakeRunner(512);
  runner.MustSubmit("length", Prompt(12), Greedy(8));
  runner.Run();
  const std::vector<int32_t> tokens = runner["length"].tokens;
  EXPECT_EQ(runner["length"].end.reason, FinishReason::kLength);
  EXPECT_TRUE(runner["length"].end.status.ok());
  // The output up to, and without, the first occurrence of the id.
  const int32_t ending = tokens[4];
  const std::vector<int32_t> before(tokens.begin(),
                                    std::find(tokens.begin(), tokens.end(), ending));

  SamplingParams stop = Greedy(8);
  stop.stop_ids = {95, ending};
  runner.MustSubmit("stop", Prompt(12), stop);
  stop.stop_ids = {tokens[0]};
  runner.MustSubmit("stop at once", Prompt(12), stop);
  runner.Run();
  EXPECT_EQ(runner["stop"].end.reason, FinishReason::kStop);
  EXPECT_EQ(runner["stop"].tokens, before);
  EXPECT_EQ(runner["stop at once"].end.reason, FinishReason::kStop);
  EXPECT_EQ(runner["stop at once"].num_started, 1);
  EXPECT_TRUE(runner["stop at once"].tokens.empty());

  TinyModel model = Model();
  nlohmann::json config = nlohmann::json::parse(model.config_json);
  config["eos_token_id"] = {93, ending};
  model.config_json = config.dump();
  EngineRunner with_eos(Options(WriteModelDir(model, scratch_.path()), 512));
  SamplingParams eos = Greedy(8);
  with_eos.MustSubmit("ignored", Prompt(12), eos);
  eos.ignore_eos = false;
  with_eos.MustSubmit("eos", Prompt(12), eos);
  with_eos.Run();
  EXPECT_EQ(with_eos["ignored"].tokens, tokens);
  EXPECT_EQ(with_eos["eos"].end.reason, FinishReason::kStop);
  EXPECT_EQ(with_eos["eos"].tokens, before);
}

TEST_F(BatchingTest, Metrics) {
  EngineRunner runner = MakeRunner(512);
  for (int i = 0; i < 3; ++i) runner.MustSubmit(std::to_string(i), Prompt(19 + i), Greedy(15 + i));
  runner.Run();
  for (int i = 0; i < 3; ++i) {
    const engine::RequestMetrics& metrics = runner[std::to_string(i)].end.metrics;
    EXPECT_EQ(metrics.prompt_tokens, 19 + i);
    EXPECT_EQ(metrics.generated_tokens, 15 + i);
    EXPECT_EQ(metrics.cached_tokens, 0);
    EXPECT_EQ(metrics.preemptions, 0);
    // 33, 35 and 37 positions: 5 blocks of 8. K of 4 layers, V of one; a plain cache has 8 planes.
    const size_t plane = size_t{5} * kBlockTokens * 4 * 8 * sizeof(float);
    EXPECT_EQ(metrics.peak_key_bytes, 4 * plane);
    EXPECT_EQ(metrics.peak_value_bytes, plane);
    EXPECT_EQ(metrics.peak_score_bytes, 0U);
    EXPECT_EQ(metrics.plain_cache_bytes, 8 * plane);
    EXPECT_GE(metrics.queue_seconds, 0);
    EXPECT_GT(metrics.prefill_seconds, 0);
    EXPECT_GT(metrics.decode_seconds, 0);
    EXPECT_NEAR(metrics.time_to_first_token_seconds,
                metrics.queue_seconds + metrics.prefill_seconds, 1e-6);
    EXPECT_NEAR(metrics.mean_inter_token_seconds, metrics.decode_seconds / (14 + i), 1e-6);
    EXPECT_GE(metrics.max_inter_token_seconds, metrics.mean_inter_token_seconds);
    EXPECT_LE(metrics.max_inter_token_seconds, metrics.decode_seconds + 1e-9);
  }
}

}  // namespace
}  // namespace strata::testing::batching_test
