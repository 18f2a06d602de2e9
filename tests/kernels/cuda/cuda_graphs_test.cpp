// A step's way to the device and back: its copies, decode steps as graphs, and padding rows. No
// answer depends on any of these.

#include <cstring>
#include <set>

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
  core->set_runs_ahead(false);  // each step of the core is one step of the device
  Recordings recordings;
  Add(core.get(), 7, 12, &recordings);
  for (int i = 0; i < 3; ++i) core->Step();  // the prompt, then a step that is new, then known
  const int64_t graphs = cuda_on_cpu::GraphLaunches();
  const int64_t launches = cuda_on_cpu::Launches();
  core->Step();
  EXPECT_EQ(cuda_on_cpu::GraphLaunches(), graphs + 1);
  EXPECT_EQ(cuda_on_cpu::Launches(), launches);
  while (core->HasWork()) core->Step();
  EXPECT_EQ(cuda_on_cpu::GraphLaunches(), graphs + 9);
  EXPECT_EQ(recordings[0]->tokens.size(), 12U);
}

// Prompts, decodes, and tokens chosen in every way: a step's inputs go in one copy, and its results
// come in another.
TEST_F(CudaGraphsTest, AStepIsOneCopyInAndOneOut) {
  const auto core = Make(kernels::MakeCuda());
  core->set_runs_ahead(false);
  Recordings recordings;
  Add(core.get(), 7, 20, &recordings);
  Add(core.get(), 30, 20, &recordings);
  engine::Request drawn = {.id = "drawn",
                           .prompt = RandomPrompt(5, 9, 96),
                           .sampling = {.repetition_penalty = 1.2F,
                                        .logit_bias = {{3, 1.0F}},
                                        .max_tokens = 10,
                                        .ignore_eos = true,
                                        .logprobs = 4}};
  recordings.push_back(std::make_shared<Recording>());
  core->Add(std::move(drawn), recordings.back(), std::chrono::steady_clock::now());
  core->Step();
  core->Step();  // working memory has grown
  Add(core.get(), 5, 6, &recordings);
  for (int step = 0; core->HasWork(); ++step) {
    const int64_t in = cuda_on_cpu::CopiesIn();
    const int64_t out = cuda_on_cpu::CopiesOut();
    const int64_t allocations = cuda_on_cpu::Allocations();
    core->Step();
    ASSERT_EQ(cuda_on_cpu::CopiesIn(), in + 1) << step;
    ASSERT_EQ(cuda_on_cpu::CopiesOut(), out + 1) << step;
    ASSERT_LE(cuda_on_cpu::Allocations(), allocations + (step == 0 ? 9 : 0)) << step;
  }
  EXPECT_EQ(recordings[2]->token_logprobs.size(), 10U);
  EXPECT_EQ(recordings[2]->token_logprobs[9]->top.size(), 4U);
}

// When a sink gets a token, the step that runs this token is already in the stream.
TEST_F(CudaGraphsTest, TheDeviceHasWorkWhileTokensAreHandedOut) {
  struct Watch final : engine::RequestSink {
    void OnStarted(const engine::StartedEvent&) override {}
    void OnPromptLogprobs(std::vector<engine::TokenLogprobs>) override {}
    void OnToken(engine::TokenEvent) override { graphs.push_back(cuda_on_cpu::GraphLaunches()); }
    void OnFinished(engine::FinishedEvent) override {}
    std::vector<int64_t> graphs;
  };
  const auto core = Make(kernels::MakeCuda());
  const auto watch = std::make_shared<Watch>();
  core->Add({.id = "a", .prompt = RandomPrompt(1, 3, 96), .sampling = Greedy(12)}, watch,
            std::chrono::steady_clock::now());
  const int64_t before = cuda_on_cpu::GraphLaunches();
  while (core->HasWork()) core->Step();
  ASSERT_EQ(watch->graphs.size(), 12U);
  // Token 0 is the prompt's. Step i makes token i; the second step of its kind is the first graph.
  for (size_t i = 2; i + 1 < watch->graphs.size(); ++i) {
    EXPECT_EQ(watch->graphs[i] - before, static_cast<int64_t>(i)) << i;
  }
  EXPECT_EQ(core->steps_ahead(), 10) << "all but the prompt's and the first decode";
}

// Twelve sequences end one after the other: 12, 11, ... rows, in buckets of 16, 8, 4, 2, 1.
TEST_F(CudaGraphsTest, BatchesOfAnySizeAreAFewGraphs) {
  const int64_t before = cuda_on_cpu::GraphsMade();
  const auto core = Make(kernels::MakeCuda());
  Recordings recordings;
  for (int32_t i = 0; i < 12; ++i) Add(core.get(), 4, 4 + 2 * i, &recordings);
  const int64_t graphs = cuda_on_cpu::GraphLaunches();
  int64_t steps = 0;
  for (; core->HasWork(); ++steps) core->Step();
  EXPECT_LE(cuda_on_cpu::GraphsMade() - before, 2 * 5) << "tables may have grown once in each";
  EXPECT_GE(cuda_on_cpu::GraphLaunches() - graphs, steps - 2 * 5 - 1);
  for (int32_t i = 0; i < 12; ++i) {
    EXPECT_EQ(recordings[static_cast<size_t>(i)]->tokens.size(), static_cast<size_t>(4 + 2 * i));
  }
}

// A backend without padding rows.
class Unpadded final : public ProfilingBackend {
 public:
  using ProfilingBackend::ProfilingBackend;
  int64_t PaddedRows(int64_t decodes) const override { return decodes; }
};

// Under --batch-invariant, for plans that share values, and that store and read scores.
TEST_F(CudaGraphsTest, RowsThatPadChangeNoBit) {
  for (const char* const plan : {"svformer", "reuse"}) {
    SCOPED_TRACE(plan);
    options_.cross_layer = plan;
    options_.score_reuse = engine::ScoreReuse::kStore;
    const auto logits = [&](bool padded) {
      std::unique_ptr<kernels::Backend> backend = kernels::MakeCuda(/*batch_invariant=*/true);
      if (!padded) backend = std::make_unique<Unpadded>(std::move(backend));
      const auto core = Make(std::move(backend));
      std::vector<std::vector<float>> rows;
      core->set_logits_hook([&](const engine::Sequence&, std::span<const float> row) {
        rows.emplace_back(row.begin(), row.end());
      });
      Recordings recordings;
      for (int32_t i = 0; i < 5; ++i) Add(core.get(), 3 + i, 2 + i, &recordings);
      while (core->HasWork()) core->Step();
      return rows;
    };
    const auto expected = logits(false);
    const auto padded = logits(true);
    ASSERT_EQ(padded.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(std::memcmp(padded[i].data(), expected[i].data(), expected[i].size() * 4), 0) << i;
    }
  }
}

// With sentinels in the whole cache, a step changes only the entries of its live rows.
TEST_F(CudaGraphsTest, RowsThatPadWriteNothing) {
  options_.cross_layer = "reuse";
  options_.score_reuse = engine::ScoreReuse::kStore;
  const auto core = Make(kernels::MakeCuda());
  core->set_runs_ahead(false);
  const kernels::PagedArena arena = core->cache().arena();
  const auto blocks = static_cast<size_t>(core->cache().usage().blocks_total);
  const size_t score_block =
      static_cast<size_t>(arena.score_slots * arena.block_tokens) * sizeof(float);
  ASSERT_GT(score_block, 0U);
  const std::pair<std::byte*, size_t> memories[] = {
      {arena.arena, blocks * arena.place_bytes},
      {reinterpret_cast<std::byte*>(arena.scores), blocks * score_block}};
  for (const auto& [memory, bytes] : memories) {
    core->backend().CopyFromHost(memory, std::vector<std::byte>(bytes, std::byte{0x5a}));
  }
  const auto snapshot = [&](const std::pair<std::byte*, size_t>& memory) {
    std::vector<std::byte> bytes(memory.second);
    core->backend().CopyToHost(bytes, memory.first);
    return bytes;
  };
  Recordings recordings;
  for (int32_t i = 0; i < 5; ++i) Add(core.get(), 6 + i, 9, &recordings);
  core->Step();
  for (int step = 0; step < 4; ++step) {
    const std::vector<std::byte> before[] = {snapshot(memories[0]), snapshot(memories[1])};
    core->Step();
    std::set<int32_t> live, live_scores;
    for (const auto& sequence : core->scheduler().running()) {
      live.insert(sequence->blocks.ids().begin(), sequence->blocks.ids().end());
      live_scores.insert(sequence->blocks.score_ids().begin(), sequence->blocks.score_ids().end());
    }
    ASSERT_EQ(live.size(), 5U);
    size_t changed = 0;
    for (const int kind : {0, 1}) {
      const std::vector<std::byte> after = snapshot(memories[kind]);
      const size_t block_bytes = kind == 0 ? arena.place_bytes : score_block;
      for (size_t i = 0; i < after.size(); ++i) {
        if (after[i] == before[kind][i]) continue;
        const auto block = static_cast<int32_t>(i / block_bytes);
        ASSERT_TRUE((kind == 0 ? live : live_scores).contains(block)) << "byte " << i;
        changed += kind == 0 ? 1 : 0;
      }
    }
    EXPECT_GT(changed, 0U);
    EXPECT_LE(changed, 5 * core->cache().planes().bytes_per_token());
  }
}

// Sequences come and go in more kinds of steps than are remembered, and one context grows into a
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
  // A backend that waits after each operation has no steps to keep.
  auto waiting = std::make_unique<ProfilingBackend>(kernels::MakeCuda(), /*waits=*/true);
  const auto expected = answers(std::move(waiting), false);
  EXPECT_EQ(expected[0].size(), 12U);
  EXPECT_EQ(answers(kernels::MakeCuda(), true), expected);
}

}  // namespace
}  // namespace strata::testing::cuda_graphs_test
