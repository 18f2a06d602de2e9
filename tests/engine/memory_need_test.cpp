// Estimates of the memory of steps, made before any is taken, against the memory taken.
#include "engine/serve/memory_need.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "engine/model/architectures.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "kvcache/plan/plan_parser.h"
#include "tests/bench/profiling_backend.h"
#include "tests/support/engine_runner.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::memory_need_test {
namespace {

using nlohmann::json;

constexpr int32_t kVocab = 2048;
constexpr int32_t kPositions = 512;
const TinyModelOptions kModel = {
    .attention = {.num_layers = 6, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 32},
    .hidden_size = 96,
    .intermediate_size = 320,
    .vocab_size = kVocab,
    .max_positions = kPositions};

// The CPU backend, and the bytes of its living buffers.
class CountingBackend final : public ProfilingBackend {
 public:
  // Takes ownership of `cpu`.
  explicit CountingBackend(kernels::CpuBackend* cpu)
      : ProfilingBackend(std::unique_ptr<kernels::Backend>(cpu)), cpu_(cpu) {}

  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(size_t bytes) override {
    auto buffer = ProfilingBackend::Allocate(bytes);
    if (!buffer.ok()) return buffer.status();
    bytes_ += bytes;
    return std::make_unique<Counted>(*std::move(buffer), &bytes_);
  }
  // Bytes of buffers and of the backend's working memory.
  size_t bytes() const { return bytes_ + cpu_->working_bytes(); }

 private:
  class Counted final : public kernels::Buffer {
   public:
    Counted(std::unique_ptr<kernels::Buffer> inner, size_t* bytes)
        : inner_(std::move(inner)), bytes_(bytes) {}
    ~Counted() override { *bytes_ -= size(); }
    std::byte* data() const override { return inner_->data(); }
    size_t size() const override { return inner_->size(); }
    bool host_readable() const override { return inner_->host_readable(); }

   private:
    const std::unique_ptr<kernels::Buffer> inner_;
    size_t* const bytes_;
  };

  const kernels::CpuBackend* const cpu_;
  size_t bytes_ = 0;
};

class MemoryNeedTest : public ::testing::Test {
 protected:
  // Writes a model with this plan for the next engine.
  void Use(const json& plan) {
    TinyModelOptions model = kModel;
    model.cross_layer = plan;
    const TinyModel tiny = MakeTinyModel(model);
    options_.model_dir = WriteModelDir(tiny, scratch_.path());
    spec_ = engine::ParseModelSpec(tiny.config_json).value();
    plan_ = spec_.plan.value_or(kvcache::SharingPlan::Plain(spec_.shape()));
  }
  engine::StepNeed StepsNeed(const kernels::Backend& backend) const {
    return engine::NeedOfSteps(spec_, engine::LayoutOf(spec_, plan_), options_, backend);
  }
  static std::unique_ptr<CountingBackend> MakeBackend() {
    return std::make_unique<CountingBackend>(
        kernels::CpuBackend::Create(2, false).value().release());
  }

  const ScratchDir scratch_;
  engine::EngineOptions options_ = {
      .model_dir = {}, .block_tokens = 16, .max_batch_tokens = 256, .max_running = 8};
  engine::ModelSpec spec_;
  kvcache::SharingPlan plan_;
};

// One long prompt alone, whose attention is cut into spans, then a step of prompts with logits in
// every row.
void RunLargestSteps(engine::EngineCore* core) {
  const auto add = [core](const std::string& id, int32_t tokens) {
    engine::Request request = {.id = id,
                               .prompt = RandomPrompt(1, tokens, kVocab),
                               .sampling = Greedy(2),
                               .prompt_logprobs = 0};
    ASSERT_TRUE(core->Validate(request).ok());
    core->Add(std::move(request), std::make_shared<Recording>(), std::chrono::steady_clock::now());
  };
  add("alone", kPositions - 2);
  while (core->HasWork()) core->Step();
  for (const char* id : {"a", "b", "c", "d"}) add(id, 64);
  while (core->HasWork()) core->Step();
}

TEST_F(MemoryNeedTest, StepsTakeWhatWasSaidAndNotMuchLess) {
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  const json partial = {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 2}};
  // One or two buffers of projections, kept outputs, layers without projections.
  for (const json& plan :
       {json(), svformer, json{{"preset", "resformer"}}, reuse, json{svformer, reuse},
        json{svformer, partial}, json{{"preset", "cla"}, {"factor", 2}},
        json{{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", 2}}}) {
    SCOPED_TRACE(plan.dump());
    Use(plan);
    auto made = MakeBackend();
    const CountingBackend& backend = *made;
    const engine::StepNeed need = StepsNeed(backend);
    const auto core = engine::EngineCore::Create(options_, std::move(made)).value();
    const auto norms = static_cast<size_t>((2 * kModel.attention.num_layers + 1) *
                                           kModel.hidden_size * int32_t{sizeof(float)});
    const size_t others = core->model().cache_bytes + norms;
    EXPECT_EQ(need.scratch, backend.bytes() - others);
    RunLargestSteps(core.get());
    const size_t taken = backend.bytes() - others;
    const size_t said = need.scratch + need.growth;
    EXPECT_GE(said, taken);
    EXPECT_LE(said, taken + taken / 10);
  }
}

TEST_F(MemoryNeedTest, WhatIsOverTheLimitIsRefusedWithTheSum) {
  Use(json());
  const engine::MemoryNeed need = {.weights = engine::NeedOfWeights(engine::TensorsOf(spec_, plan_),
                                                                    kernels::MatrixFormat::kF32),
                                   .cache = options_.cache_bytes,
                                   .steps = StepsNeed(*MakeBackend())};
  options_.memory_limit = need.total();
  EXPECT_TRUE(engine::EngineCore::Create(options_, MakeBackend()).ok());
  --options_.memory_limit;
  const absl::Status refused = engine::EngineCore::Create(options_, MakeBackend()).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(absl::StrContains(refused.message(), "weights 3.")) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "workspace 4.0 MiB")) << refused;
}

// A step of any size has few rows with logits.
TEST_F(MemoryNeedTest, PromptsThatWantLogprobsShareTheRowsOfAStep) {
  Use(json());
  options_.max_batch_tokens = 2048;
  options_.max_prefill_chunk = 2048;
  options_.max_running = 64;
  auto made = MakeBackend();
  const CountingBackend& backend = *made;
  const engine::StepNeed need = StepsNeed(backend);
  const auto core = engine::EngineCore::Create(options_, std::move(made)).value();
  const size_t before = backend.bytes();
  std::vector<std::shared_ptr<Recording>> sinks;
  for (int i = 0; i < 24; ++i) {  // 24 chunks of 64 rows would have 1,536 rows of logits
    sinks.push_back(std::make_shared<Recording>());
    core->Add({.id = std::to_string(i),
               .prompt = RandomPrompt(1 + i, 130, kVocab),
               .sampling = Greedy(2),
               .prompt_logprobs = 0},
              sinks.back(), std::chrono::steady_clock::now());
  }
  while (core->HasWork()) core->Step();
  const size_t taken = backend.bytes() - before;
  EXPECT_LE(taken, need.growth);
  EXPECT_GT(taken, 512U * kVocab * sizeof(float));
  EXPECT_LT(taken, 1024U * kVocab * sizeof(float));
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->prompt_logprobs.size(), 129U);
    EXPECT_EQ(sink->tokens.size(), 2U);
  }
}

// The device decides the size of a step if no option does.
class LargeSteps final : public NullBackend {
 public:
  int32_t StepTokens() const override { return 8192; }
};

TEST_F(MemoryNeedTest, StepsAreAsLargeAsTheDeviceLikes) {
  Use(json());
  const auto tokens_of = [this](auto backend) {
    const auto core = engine::EngineCore::Create(options_, std::move(backend)).value();
    return std::pair(core->model().max_batch_tokens, core->model().max_prefill_chunk);
  };
  options_.max_batch_tokens = options_.max_prefill_chunk = 0;
  EXPECT_EQ(tokens_of(std::make_unique<LargeSteps>()), std::pair(8192, 8192));
  EXPECT_EQ(tokens_of(std::make_unique<NullBackend>()), std::pair(512, 512));
  options_.max_batch_tokens = 100;
  EXPECT_EQ(tokens_of(std::make_unique<LargeSteps>()), std::pair(100, 8192));
  options_.max_prefill_chunk = 50;
  EXPECT_EQ(tokens_of(std::make_unique<LargeSteps>()), std::pair(100, 50));
}

class AskedBackend final : public NullBackend {
 public:
  size_t WorkingBytes(const kernels::StepLimits& limits) const override {
    limits_ = limits;
    return 1;
  }
  const kernels::StepLimits& limits() const { return limits_; }

 private:
  mutable kernels::StepLimits limits_;
};

// A request of more sequences than may run runs alone.
TEST_F(MemoryNeedTest, StepsAreAsWideAsOneRequestAtLeast) {
  Use(json());
  const AskedBackend backend;
  options_.max_running = 1;
  EXPECT_EQ(StepsNeed(backend).growth, 256U * kVocab * sizeof(float) + 1);
  EXPECT_EQ(backend.limits().sequences, 64);
  EXPECT_EQ(backend.limits().rows, 256);
  EXPECT_EQ(backend.limits().inputs, 320);
  EXPECT_EQ(backend.limits().outputs, 2 * 320);
  EXPECT_EQ(backend.limits().logit_rows, 256);
  options_.max_running = 100;
  StepsNeed(backend);
  EXPECT_EQ(backend.limits().sequences, 100);
}

}  // namespace
}  // namespace strata::testing::memory_need_test
