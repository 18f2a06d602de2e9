// Prefix hits, preemption and forks leave every bit as it is; order of service; ends of requests.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/random_plan.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::serving_test {
namespace {

using engine::FinishReason;
using nlohmann::json;
using std::chrono::milliseconds;

constexpr int32_t kBlockTokens = 8;
constexpr kvcache::AttentionShape kShape = {4, 4, 2, 8};

std::vector<json> Plans() {
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 2}}};
  return {nullptr,
          svformer,
          reuse,
          {svformer, reuse},
          {{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", 2}},
          MakeRandomPlan(3, 4, 4, 2).cross_layer};
}

engine::Request Make(const std::string& id, std::vector<int32_t> prompt, int32_t max_tokens) {
  engine::Request request;
  request.id = id;
  request.prompt = std::move(prompt);
  request.sampling = Greedy(max_tokens);
  return request;
}

// Drawn at random.
engine::Request Drawn(const std::string& id, std::vector<int32_t> prompt, int32_t max_tokens) {
  engine::Request request = Make(id, std::move(prompt), max_tokens);
  request.sampling.temperature = 0.9F;
  request.sampling.seed = 77;
  return request;
}

class ServingTest : public ::testing::TestWithParam<json> {
 protected:
  // A cache of so many blocks.
  EngineRunner Runner(int32_t blocks, engine::EngineOptions options = {}) {
    options.model_dir = dir_;
    options.device = "cpu";
    options.threads = 1;
    options.block_tokens = kBlockTokens;
    options.cache_bytes = BlockBytes() * static_cast<size_t>(blocks);
    return EngineRunner(options);
  }

  Recording Alone(engine::Request request) {
    EngineRunner runner = Runner(64);
    const std::string id = request.id;
    EXPECT_TRUE(runner.Submit(std::move(request)).ok());
    runner.Run();
    return runner[id];
  }

  static std::vector<int32_t> Prompt(uint64_t seed, int32_t length) {
    return RandomPrompt(seed, length, 96);
  }

 private:
  size_t BlockBytes() {
    if (block_bytes_ == 0) {
      engine::EngineOptions options;
      options.model_dir = dir_;
      options.device = "cpu";
      options.block_tokens = kBlockTokens;
      EngineRunner runner(options);
      const auto& plan = runner.core().model().plan;
      block_bytes_ = plan.held_bytes_per_token() * static_cast<size_t>(kBlockTokens);
    }
    return block_bytes_;
  }

  ScratchDir scratch_;
  const std::filesystem::path dir_ = WriteModelDir(
      MakeTinyModel({.attention = kShape, .max_positions = 256, .cross_layer = GetParam()}),
      scratch_.path());
  size_t block_bytes_ = 0;
};

void ExpectSameBits(const Recording& a, const Recording& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logits.size(), b.logits.size());
  for (size_t i = 0; i < a.logits.size(); ++i) {
    ASSERT_EQ(a.logits[i].size(), b.logits[i].size());
    const size_t bytes = a.logits[i].size() * sizeof(float);
    ASSERT_EQ(std::memcmp(a.logits[i].data(), b.logits[i].data(), bytes), 0) << "token " << i;
  }
}

TEST_P(ServingTest, APrefixHitLeavesEveryBit) {
  const std::vector<int32_t> first = Prompt(1, 45);
  std::vector<int32_t> second(first.begin(), first.begin() + 30);
  for (const int32_t id : Prompt(2, 25)) second.push_back(id);
  EngineRunner runner = Runner(64);
  const auto run = [&](engine::Request request) {
    const std::string id = request.id;
    EXPECT_TRUE(runner.Submit(std::move(request)).ok());
    runner.Run();
    EXPECT_EQ(runner.blocks_used(), 0);
    EXPECT_EQ(runner[id].start.cached_tokens, runner[id].end.metrics.cached_tokens);
    return runner[id];
  };
  EXPECT_EQ(run(Make("cold", first, 12)).start.cached_tokens, 0);
  const Recording warm = run(Make("warm", first, 12));
  EXPECT_EQ(warm.start.cached_tokens, 40);
  ExpectSameBits(Alone(Make("a", first, 12)), warm);
  const Recording branch = run(Drawn("branch", second, 12));
  EXPECT_EQ(branch.start.cached_tokens, 24);  // 30 equal tokens, in full blocks
  ExpectSameBits(Alone(Drawn("b", second, 12)), branch);

  // Generated tokens are found too: a talk goes on.
  std::vector<int32_t> talk = first;
  talk.insert(talk.end(), warm.tokens.begin(), warm.tokens.end());
  talk.push_back(5);
  const Recording next = run(Make("next turn", talk, 6));
  EXPECT_EQ(next.start.cached_tokens, 56);
  ExpectSameBits(Alone(Make("c", talk, 6)), next);
  // A whole number of blocks: the last token is computed nevertheless.
  const std::vector<int32_t> whole(first.begin(), first.begin() + 40);
  EXPECT_EQ(run(Make("whole", whole, 3)).start.cached_tokens, 32);

  engine::Request bypass = Make("bypass", first, 12);
  bypass.bypass_prefix_cache = true;
  EXPECT_EQ(run(std::move(bypass)).start.cached_tokens, 0);
  for (const char* id : {"salted", "salted again"}) {
    engine::Request salted = Make(id, first, 12);
    salted.cache_salt = "another tenant";
    const Recording recording = run(std::move(salted));
    EXPECT_EQ(recording.start.cached_tokens, std::string(id) == "salted" ? 0 : 40);
    ExpectSameBits(warm, recording);
  }
  engine::Request explained = Make("prompt logprobs", first, 12);
  explained.prompt_logprobs = 1;
  const Recording recording = run(std::move(explained));
  EXPECT_EQ(recording.start.cached_tokens, 0);
  EXPECT_EQ(recording.prompt_logprobs.size(), first.size() - 1);
  ExpectSameBits(warm, recording);
}

TEST_P(ServingTest, PreemptionLeavesEveryBit) {
  for (const bool prefix_cache : {true, false}) {
    SCOPED_TRACE(prefix_cache ? "with prefix cache" : "without");
    engine::EngineOptions options;
    options.max_prefill_chunk = 16;
    options.prefix_cache = prefix_cache;
    EngineRunner runner = Runner(14, options);
    std::vector<engine::Request> requests;
    for (int32_t i = 0; i < 8; ++i) {
      const auto seed = static_cast<uint64_t>(10 + i);
      const std::string id(1, static_cast<char>('a' + i));
      requests.push_back(i % 2 == 0 ? Make(id, Prompt(seed, 5 + 3 * i), 40)
                                    : Drawn(id, Prompt(seed, 5 + 3 * i), 40));
      ASSERT_TRUE(runner.Submit(requests.back()).ok());
    }
    runner.Run();
    EXPECT_EQ(runner.blocks_used(), 0);
    int32_t preemptions = 0;
    for (const engine::Request& request : requests) {
      SCOPED_TRACE(request.id);
      const Recording& recording = runner[request.id];
      EXPECT_TRUE(recording.in_order);
      EXPECT_EQ(recording.end.reason, FinishReason::kLength);
      preemptions += recording.end.metrics.preemptions;
      EXPECT_LE(recording.end.metrics.preemptions, engine::Scheduler::kMaxPreemptions);
      ExpectSameBits(Alone(request), recording);
    }
    EXPECT_GT(preemptions, 0);
    EXPECT_EQ(runner["a"].end.metrics.preemptions, 0) << "the first gives way to nobody";
  }
}

TEST_P(ServingTest, SequencesOfOnePromptShareItsBlocks) {
  EngineRunner runner = Runner(64);
  engine::Request request = Drawn("n", Prompt(4, 21), 6);
  request.n = 5;
  ASSERT_TRUE(runner.Submit(request).ok());
  runner.Step();
  // Two full blocks in common, and one block of each sequence's own.
  EXPECT_EQ(runner.blocks_used(), 2 + 5);
  runner.Run();
  EXPECT_EQ(runner.blocks_used(), 0);
  const Recording& first = runner["n"];
  EXPECT_TRUE(first.in_order);
  EXPECT_EQ(first.num_started, 1);
  ASSERT_EQ(first.others.size(), 4U);
  request.n = 1;
  ExpectSameBits(Alone(request), first);
  int32_t differ = 0;
  for (const auto& [index, other] : first.others) {
    EXPECT_EQ(other.num_finished, 1) << index;
    EXPECT_EQ(other.tokens.size(), 6U);
    EXPECT_EQ(other.logits[0], first.logits[0]);
    differ += other.tokens != first.tokens ? 1 : 0;
  }
  EXPECT_GT(differ, 2) << "each draws its own numbers";
}

TEST_P(ServingTest, OneOfSeveralSequencesCanBeCancelled) {
  EngineRunner runner = Runner(64);
  engine::Request request = Make("n", Prompt(4, 21), 9);
  request.n = 3;
  ASSERT_TRUE(runner.Submit(request).ok());
  const absl::Status status = absl::CancelledError("test");
  EXPECT_FALSE(runner.core().Finish("n", 1, FinishReason::kCancelled, status)) << "one for all yet";
  runner.Step();
  EXPECT_TRUE(runner.core().Finish("n", 1, FinishReason::kCancelled, status));
  EXPECT_FALSE(runner.core().Finish("n", 1, FinishReason::kCancelled, status));
  EXPECT_EQ(runner.blocks_used(), 2 + 2);
  runner.Run();
  EXPECT_EQ(runner["n"].end.reason, FinishReason::kLength);
  EXPECT_EQ(runner["n"].others.at(1).end.reason, FinishReason::kCancelled);
  EXPECT_EQ(runner["n"].others.at(2).tokens, runner["n"].tokens);
}

INSTANTIATE_TEST_SUITE_P(Plans, ServingTest, ::testing::ValuesIn(Plans()),
                         [](const auto& plan) { return std::to_string(plan.index); });

class OrderTest : public ServingTest {
 protected:
  // One at a time: the order of the first tokens is the order of service.
  std::vector<std::string> Order(milliseconds ageing, const std::vector<int32_t>& priorities) {
    engine::EngineOptions options;
    options.max_running = 1;
    options.priority_ageing = ageing;
    EngineRunner runner = Runner(64, options);
    std::vector<std::string> order;
    for (size_t i = 0; i < priorities.size(); ++i) {
      engine::Request request = Make(std::to_string(i), Prompt(i, 5), 2);
      request.priority = priorities[i];
      EXPECT_TRUE(runner.Submit(std::move(request)).ok());
    }
    while (runner.core().HasWork()) {
      runner.Step();
      for (size_t i = 0; i < priorities.size(); ++i) {
        const std::string id = std::to_string(i);
        if (runner[id].num_finished == 0) continue;
        if (std::find(order.begin(), order.end(), id) == order.end()) order.push_back(id);
      }
    }
    return order;
  }
};

INSTANTIATE_TEST_SUITE_P(Plain, OrderTest, ::testing::Values(json()));

TEST_P(OrderTest, LowerPrioritiesComeFirstAndAgeAgainstEachOther) {
  using Ids = std::vector<std::string>;
  EXPECT_EQ(Order(milliseconds(10000), {0, 0, 0}), (Ids{"0", "1", "2"}));
  EXPECT_EQ(Order(milliseconds(10000), {2, 0, 1, -1, 0}), (Ids{"3", "1", "4", "2", "0"}));
  EXPECT_EQ(Order(milliseconds(0), {2, 0, 1, -1, 0}), (Ids{"0", "1", "2", "3", "4"}));
}

TEST_P(OrderTest, LimitsEndWhatTheyShould) {
  EngineRunner runner = Runner(64);
  const auto past = std::chrono::steady_clock::now() - milliseconds(1);
  const auto later = std::chrono::steady_clock::now() + std::chrono::hours(1);
  engine::Request late = Make("late", Prompt(1, 5), 4);
  late.deadline = past;
  late.time_limit = later;
  engine::Request brief = Make("brief", Prompt(1, 5), 4);
  brief.time_limit = past;
  brief.n = 2;
  engine::Request easy = Make("easy", Prompt(1, 5), 4);
  easy.deadline = easy.time_limit = later;
  for (const engine::Request& request : {late, brief, easy}) {
    ASSERT_TRUE(runner.Submit(request).ok());
  }
  runner.Step();
  EXPECT_EQ(runner["late"].end.reason, FinishReason::kError);
  EXPECT_TRUE(absl::IsDeadlineExceeded(runner["late"].end.status));
  EXPECT_EQ(runner["brief"].num_started, 1);
  EXPECT_EQ(runner["brief"].end.reason, FinishReason::kTimeLimit);
  EXPECT_TRUE(runner["brief"].end.status.ok());
  EXPECT_EQ(runner["brief"].others.at(1).end.reason, FinishReason::kTimeLimit);
  runner.Run();
  EXPECT_EQ(runner["easy"].end.reason, FinishReason::kLength);

  // In mid-output: the tokens so far are kept.
  engine::Request cut = Make("cut", Prompt(1, 5), 200);
  cut.time_limit = std::chrono::steady_clock::now() + milliseconds(20);
  ASSERT_TRUE(runner.Submit(cut).ok());
  while (runner["cut"].num_finished == 0) runner.Step();
  EXPECT_TRUE(runner["cut"].end.reason == FinishReason::kTimeLimit ||
              runner["cut"].tokens.size() == 200);
  EXPECT_EQ(runner["cut"].end.metrics.generated_tokens, std::ssize(runner["cut"].tokens));
}

}  // namespace
}  // namespace strata::testing::serving_test
