// A share of the device's memory for everything: the cache's part of it, refusals, and that no step
// goes beyond it.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::cuda_memory_share_test {
namespace {

constexpr size_t kDeviceBytes = size_t{512} << 20;

class CudaMemoryShareTest : public ::testing::Test {
 protected:
  CudaMemoryShareTest() {
    cuda_on_cpu::SetMemory(kDeviceBytes);
    options_ = {.model_dir = WriteModelDir(MakeTinyModel({}), scratch_.path()),
                .block_tokens = 16,
                .max_batch_tokens = 64,
                .max_running = 8};
  }
  ~CudaMemoryShareTest() override { cuda_on_cpu::SetMemory(size_t{2} << 30); }

  absl::Status Refusal(double share, std::unique_ptr<kernels::Backend> backend) {
    options_.memory_share = share;
    return engine::EngineCore::Create(options_, std::move(backend)).status();
  }

  const ScratchDir scratch_;
  engine::EngineOptions options_;
};

TEST_F(CudaMemoryShareTest, TheCacheTakesTheRestAndStepsStayWithin) {
  options_.memory_share = 0.25;
  auto backend = kernels::MakeCuda();
  const size_t before = cuda_on_cpu::BytesInUse();
  const auto core = engine::EngineCore::Create(options_, std::move(backend)).value();
  const auto budget = static_cast<size_t>(0.25 * kDeviceBytes);
  EXPECT_GT(core->model().cache_bytes, budget / 2);
  EXPECT_LE(cuda_on_cpu::BytesInUse() - before, budget);
  const size_t loaded = cuda_on_cpu::BytesInUse();
  for (int i = 0; i < 5; ++i) {
    engine::Request request = {.id = absl::StrCat(i),
                               .prompt = RandomPrompt(static_cast<uint64_t>(i), 90, 96),
                               .sampling = {.repetition_penalty = 1.1F, .max_tokens = 3}};
    if (i == 4) request.prompt_logprobs = 0;
    ASSERT_TRUE(core->Validate(request).ok());
    core->Add(std::move(request), std::make_shared<Recording>(), std::chrono::steady_clock::now());
  }
  while (core->HasWork()) core->Step();
  EXPECT_GT(cuda_on_cpu::BytesInUse(), loaded) << "steps take working memory";
  EXPECT_LE(cuda_on_cpu::BytesInUse() - before, budget);
}

// One request of more sequences than may run: its choices take 64 rows of the vocabulary.
TEST_F(CudaMemoryShareTest, AWideRequestAloneStaysWithin) {
  options_.model_dir = WriteModelDir(MakeTinyModel({.vocab_size = 1 << 18}), scratch_.path());
  options_.memory_share = 0.5;
  options_.max_batch_tokens = 8;
  options_.max_running = 1;
  auto backend = kernels::MakeCuda();
  const size_t before = cuda_on_cpu::BytesInUse();
  const auto core = engine::EngineCore::Create(options_, std::move(backend)).value();
  engine::Request request = {.id = "wide", .prompt = {1, 2, 3}, .sampling = Greedy(1), .n = 64};
  ASSERT_TRUE(core->Validate(request).ok());
  core->Add(std::move(request), std::make_shared<Recording>(), std::chrono::steady_clock::now());
  while (core->HasWork()) core->Step();
  EXPECT_LE(cuda_on_cpu::BytesInUse() - before, kDeviceBytes / 2);
}

TEST_F(CudaMemoryShareTest, WhatDoesNotFitIsSaidWithTheSum) {
  const absl::Status small = Refusal(0.01, kernels::MakeCuda());
  EXPECT_EQ(small.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(
      absl::StrContains(small.message(), "memory-share: 0.01 of 536870912 bytes is 5368709"))
      << small;
  EXPECT_TRUE(absl::StrContains(small.message(), "nothing is left for the cache")) << small;
  auto backend = kernels::MakeCuda();
  const auto others = backend->Allocate(size_t{300} << 20).value();
  const absl::Status full = Refusal(0.9, std::move(backend));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StrContains(full.message(), "are free")) << full;
}

TEST_F(CudaMemoryShareTest, TheHostsMemoryIsNotShared) {
  const absl::Status cpu = Refusal(0.5, kernels::CreateBackend({.device = "cpu"}).value());
  EXPECT_EQ(cpu.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(cpu.message(), "memory-share: cpu, ")) << cpu;
  EXPECT_EQ(Refusal(1.5, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace strata::testing::cuda_memory_share_test
