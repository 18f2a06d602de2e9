// Promises to a request of several sequences, at its fork.
#include "engine/serve/scheduler.h"

#include <memory>

#include "engine/serve/load_model.h"
#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::scheduler_test {
namespace {

constexpr int32_t kPrompt = 9;
constexpr int32_t kMaxTokens = 20;
constexpr int32_t kWidth = 3;

// The last row of its prompt runs alone, like a decode, and takes score blocks. The request will
// not be preempted again, so each of its sequences needs its whole worst case.
TEST(SchedulerTest, EachForkGetsItsWholeShareOfWhatWasPromised) {
  const ScratchDir scratch;
  const auto dir =
      WriteModelDir(MakeTinyModel({.cross_layer = {{"preset", "reuse"}, {"compute_layers", {0}}}}),
                    scratch.path());
  const auto model = engine::LoadModel({.model_dir = dir,
                                        .score_reuse = engine::ScoreReuse::kStore,
                                        .cache_bytes = size_t{4} << 20,
                                        .block_tokens = 4},
                                       std::make_unique<NullBackend>());
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE(model->cache->stores_scores());
  engine::Scheduler scheduler({.max_batch_tokens = 512, .max_prefill_chunk = kPrompt - 1},
                              model->cache.get());
  auto sequence = std::make_unique<engine::Sequence>();
  sequence->state = std::make_shared<engine::RequestState>();
  sequence->state->request.id = "wide";
  sequence->state->request.n = kWidth;
  sequence->state->request.sampling = Greedy(kMaxTokens);
  sequence->state->prompt_size = kPrompt;
  sequence->tokens = RandomPrompt(1, kPrompt, 96);
  sequence->preemptions = engine::Scheduler::kMaxPreemptions;
  engine::Sequence& first = *sequence;
  scheduler.Enqueue(std::move(sequence));

  engine::StepPlan plan;
  while (first.computed < kPrompt) {
    scheduler.Next(0, &plan);
    ASSERT_EQ(plan.ranges.size(), 1U);
    first.computed = plan.ranges[0].end;
  }
  ASSERT_GT(first.blocks.num_score_blocks(), 0);
  const std::vector<engine::Sequence*> forks = scheduler.Fork(first);
  ASSERT_EQ(std::ssize(forks), kWidth - 1);
  const auto worst =
      static_cast<int32_t>(scheduler.WorstCaseScoreBlocks(kPrompt, kMaxTokens, /*n=*/1));
  EXPECT_EQ(first.blocks.num_score_blocks() + first.blocks.num_reserved_scores(), worst);
  // Blocks as well: otherwise another protected sequence could be admitted into them.
  const auto most = static_cast<int32_t>(scheduler.WorstCaseBlocks(kPrompt, kMaxTokens, /*n=*/1));
  EXPECT_EQ(first.blocks.num_blocks() + first.blocks.num_reserved(), most);
  for (const engine::Sequence* fork : forks) {
    EXPECT_EQ(fork->blocks.num_blocks() + fork->blocks.num_reserved(), most);
  }
  for (const engine::Sequence* fork : forks) EXPECT_EQ(fork->blocks.num_reserved_scores(), worst);
}

}  // namespace
}  // namespace strata::testing::scheduler_test
