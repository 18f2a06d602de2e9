// Prompts beside decodes: a step keeps to the time limit that decodes rely on.
#include "engine/serve/step_pacer.h"

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::step_pacer_test {
namespace {

using engine::StepPacer;
using std::chrono::milliseconds;

constexpr int32_t kMost = 512;

// A machine with given times of a step.
struct Machine {
  double decodes;  // seconds, of all decodes of a step
  double token;    // seconds, of a prompt token

  // Seconds of the last of `steps` full steps.
  double Run(StepPacer* pacer, int steps) const {
    double seconds = 0;
    for (int i = 0; i < steps; ++i) {
      const int32_t tokens = pacer->most_prompt_tokens();
      seconds = decodes + tokens * token;
      pacer->Observe(seconds, 8, tokens);
    }
    return seconds;
  }
};

TEST(StepPacerTest, StepsComeToTakeTheLimitOnEveryMachine) {
  for (const double token : {0.0004, 0.001, 0.004}) {
    StepPacer pacer(milliseconds(100), kMost);
    const Machine machine{.decodes = 0.02, .token = token};
    EXPECT_EQ(pacer.most_prompt_tokens(), kMost);
    EXPECT_NEAR(machine.Run(&pacer, 20), 0.1, 0.1 * 0.05) << token;
    // Four times as fast, then as slow again.
    const Machine faster{.decodes = 0.005, .token = token / 4};
    EXPECT_NEAR(faster.Run(&pacer, 20), std::min(0.1, 0.005 + kMost * token / 4), 0.1 * 0.05);
    EXPECT_NEAR(machine.Run(&pacer, 20), 0.1, 0.1 * 0.05) << token;
  }
}

TEST(StepPacerTest, OneSlowStepCostsAFewOthersSomething) {
  StepPacer pacer(milliseconds(100), kMost);
  const Machine machine{.decodes = 0.02, .token = 0.0004};
  machine.Run(&pacer, 20);
  const int32_t before = pacer.most_prompt_tokens();
  pacer.Observe(5, 8, before);
  EXPECT_NEAR(pacer.most_prompt_tokens(), before / 2, 1);
  machine.Run(&pacer, 5);
  EXPECT_NEAR(pacer.most_prompt_tokens(), before, 0.1 * before);
}

TEST(StepPacerTest, PromptsGetSomeTokensAtLeast) {
  StepPacer small(milliseconds(100), kMost);
  const Machine crawling{.decodes = 0.01, .token = 0.1};
  crawling.Run(&small, 20);
  EXPECT_EQ(small.most_prompt_tokens(), StepPacer::kFewest);
  StepPacer fewer(milliseconds(100), 8);
  crawling.Run(&fewer, 20);
  EXPECT_EQ(fewer.most_prompt_tokens(), 8);
}

TEST(StepPacerTest, WhatSaysNothingChangesNothing) {
  StepPacer pacer(milliseconds(100), kMost);
  pacer.Observe(5, 0, kMost);  // no decode waited
  EXPECT_EQ(pacer.most_prompt_tokens(), kMost);
  const Machine machine{.decodes = 0.02, .token = 0.001};
  machine.Run(&pacer, 20);
  const int32_t before = pacer.most_prompt_tokens();
  for (int i = 0; i < 20; ++i) pacer.Observe(0.021, 8, 1);  // a short prompt's step
  EXPECT_EQ(pacer.most_prompt_tokens(), before);
  StepPacer unlimited(milliseconds(0), kMost);
  unlimited.Observe(5, 8, kMost);
  EXPECT_EQ(unlimited.most_prompt_tokens(), kMost);
}

// Takes a fixed time for every row.
class SlowRows final : public NullBackend {
 public:
  static constexpr std::chrono::microseconds kRow{200};
  void Embed(const kernels::Matrix&, std::span<const int32_t> ids, kernels::Rows) override {
    std::this_thread::sleep_for(kRow * ids.size());
  }
};

class StepKeeper final : public engine::EngineObserver {
 public:
  void OnStep(const engine::StepStats& step) override {
    prompt_tokens.push_back(step.prefill_tokens);
  }
  void OnFinished(const std::string&, const engine::FinishedEvent&) override {}
  void OnAbort(const engine::AbortStats&) override {}

  std::vector<int32_t> prompt_tokens;  // of each step
};

class PacedStepsTest : public ::testing::Test {
 protected:
  static constexpr int32_t kPrompt = 400;

  void Start(milliseconds limit) {
    engine::EngineOptions options;
    options.model_dir = WriteModelDir(MakeTinyModel({.max_positions = 1024}), scratch_.path());
    options.max_step_time = limit;
    options.prefix_cache = false;
    options.observer = &keeper_;
    auto core = engine::EngineCore::Create(options, std::make_unique<SlowRows>());
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
  }
  void Add(int32_t prompt, int32_t max_tokens) {
    engine::Request request;
    request.id = std::to_string(added_++);
    request.prompt = RandomPrompt(7, prompt, 96);
    request.sampling = Greedy(max_tokens);
    core_->Add(std::move(request), std::make_shared<Recording>(), std::chrono::steady_clock::now());
  }
  // Prompt tokens of a step.
  int32_t Step() {
    core_->Step();
    return keeper_.prompt_tokens.back();
  }

  const ScratchDir scratch_;
  StepKeeper keeper_;
  std::unique_ptr<engine::EngineCore> core_;
  int added_ = 0;
};

TEST_F(PacedStepsTest, APromptIsCutWhereOthersDecodeAndOnlyThere) {
  Start(milliseconds(10));  // 50 rows
  Add(kPrompt, 200);
  EXPECT_EQ(Step(), kPrompt);
  for (int i = 0; i < 3; ++i) {
    Add(kPrompt, 100);
    while (Step() > 0) {
    }
  }
  int32_t cut = 0;
  // Beside decodes 400, then 256, 128 and 64, each at least half of the one before.
  for (size_t i = 8; i < keeper_.prompt_tokens.size(); ++i) {
    EXPECT_LE(keeper_.prompt_tokens[i], 55) << i;
    if (keeper_.prompt_tokens[i] > 0) ++cut;
  }
  EXPECT_GE(cut, (kPrompt - 64) / 55);
}

TEST_F(PacedStepsTest, PromptsGetAsManyRowsAsDecodes) {
  constexpr int32_t kDecodes = 40;
  Start(milliseconds(1));  // 5 rows
  for (int32_t i = 0; i < kDecodes; ++i) Add(2, 100);
  while (Step() > 0) {
  }
  Add(900, 2);
  while (Step() > 0) {  // 472, 256, 128 and 44
  }
  Add(900, 2);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(Step(), kDecodes) << i;
}

}  // namespace
}  // namespace strata::testing::step_pacer_test
