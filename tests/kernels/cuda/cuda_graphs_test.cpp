// Decode steps as graphs: when there are some, and that no answer depends on it.

#include "absl/strings/str_cat.h"
#include "tests/bench/profiling_backend.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::cuda_graphs_test {
namespace {

using Recordings = std::vector<std::shared_ptr<Recording>>;

class CudaGraphsTest : public ::testing::Test {
 protected:
  CudaGraphsTest() {
    const kvcache::AttentionShape shape = {
        .num_layers = 3, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 32};
    options_ = {.model_dir = WriteModelDir(MakeTinyModel({.attention = shape}), scratch_.path()),
                .cache_dtype = "bf16",
                .cache_bytes = size_t{4} << 20};
  }

  std::unique_ptr<engine::EngineCore> Make(std::unique_ptr<kernels::Backend> backend) const {
    return engine::EngineCore::Create(options_, std::move(backend)).value();
  }
  static void Add(engine::EngineCore* core, int32_t prompt, int32_t max_tokens,
                  Recordings* recordings) {
    engine::Request request = {.id = absl::StrCat(recordings->size()),
                               .prompt = RandomPrompt(recordings->size(), prompt, 96),
                               .sampling = Greedy(max_tokens)};
    ASSERT_TRUE(core->Validate(request).ok());
    recordings->push_back(std::make_shared<Recording>());
    core->Add(std::move(request), recordings->back(), std::chrono::steady_clock::now());
  }

  const ScratchDir scratch_;
  engine::EngineOptions options_;
};

TEST_F(CudaGraphsTest, AStepThatCameTwiceIsOneLaunch) {
  const auto core = Make(kernels::MakeCuda());
  Recordings recordings;
  Add(core.get(), 7, 12, &recordings);
  for (int i = 0; i < 3; ++i) core->Step();  // the prompt, then a step that is new, then known
  const int64_t graphs = cuda_on_cpu::GraphLaunches();
  const int64_t launches = cuda_on_cpu::Launches();
  core->Step();
  EXPECT_EQ(cuda_on_cpu::GraphLaunches(), graphs + 1);
  EXPECT_LT(cuda_on_cpu::Launches() - launches, 8) << "what comes before all lists are sent";
  while (core->HasWork()) core->Step();
  EXPECT_EQ(cuda_on_cpu::GraphLaunches(), graphs + 9);
  EXPECT_EQ(recordings[0]->tokens.size(), 12U);
}

// Sequences come and go, in more kinds of steps than are remembered, and one context grows into a
// second span.
TEST_F(CudaGraphsTest, NoAnswerDependsOnThem) {
  const auto answers = [&](std::unique_ptr<kernels::Backend> backend, bool graphs) {
    const int64_t before = cuda_on_cpu::GraphLaunches();
    const auto core = Make(std::move(backend));
    Recordings recordings;
    Add(core.get(), 250, 12, &recordings);
    for (int32_t i = 0; i < 12; ++i) {
      Add(core.get(), 5 + i, 3 + i * 5 % 7, &recordings);
      for (int step = 0; step < 3; ++step) core->Step();
    }
    while (core->HasWork()) core->Step();
    EXPECT_EQ(cuda_on_cpu::GraphLaunches() > before, graphs);
    std::vector<std::vector<int32_t>> tokens;
    for (const auto& recording : recordings) tokens.push_back(recording->tokens);
    return tokens;
  };
  // One that is waited for after each operation has no steps to keep.
  auto waiting = std::make_unique<ProfilingBackend>(kernels::MakeCuda(), /*waits=*/true);
  const auto expected = answers(std::move(waiting), false);
  EXPECT_EQ(expected[0].size(), 12U);
  EXPECT_EQ(answers(kernels::MakeCuda(), true), expected);
}

}  // namespace
}  // namespace strata::testing::cuda_graphs_test
