// Planes that several layers read, and which of them the second cache keeps.

#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::cuda_shared_planes_test {
namespace {

constexpr int64_t kLayers = 3;
constexpr int64_t kKvHeads = 2;
constexpr int64_t kTokenBytes = 32 * 2;  // of a plane
constexpr int32_t kPrompt = 10;

struct Hints {
  int64_t kept = 0;
  int64_t passed = 0;
  double step_seconds = 0;
};

// Hints of the first decode step, whose context is kPrompt + 1.
Hints HintsOf(const std::string& plan, const kernels::BackendOptions& options) {
  const ScratchDir scratch;
  const kvcache::AttentionShape shape = {
      .num_layers = kLayers, .num_query_heads = 4, .num_kv_heads = kKvHeads, .head_dim = 32};
  const auto core =
      engine::EngineCore::Create(
          {.model_dir = WriteModelDir(MakeTinyModel({.attention = shape}), scratch.path()),
           .cache_dtype = "bf16",
           .cross_layer = plan,
           .cache_bytes = size_t{1} << 20},
          kernels::cuda::CudaBackend::Create(options).value())
          .value();
  core->Add({.id = "a", .prompt = RandomPrompt(1, kPrompt, 96), .sampling = Greedy(2)},
            std::make_shared<Recording>(), std::chrono::steady_clock::now());
  core->Step();
  const Hints before = {cuda_on_cpu::KeptBytes(), cuda_on_cpu::PassedBytes(),
                        core->backend().counters().step_seconds};
  core->Step();
  return {cuda_on_cpu::KeptBytes() - before.kept, cuda_on_cpu::PassedBytes() - before.passed,
          core->backend().counters().step_seconds - before.step_seconds};
}

TEST(CudaSharedPlanesTest, ValuesThatAllLayersReadAreKept) {
  const int64_t of_layers = kLayers * kKvHeads * (kPrompt + 1) * kTokenBytes;
  const Hints svformer = HintsOf("svformer", {});
  EXPECT_EQ(svformer.kept, of_layers);
  EXPECT_EQ(svformer.passed, of_layers) << "keys make room";
  const Hints pairs = HintsOf("cla", {});  // layers 0 and 1 read the same keys and values
  EXPECT_EQ(pairs.kept, 2 * of_layers / kLayers * 2);
  EXPECT_EQ(pairs.passed, 0);
  EXPECT_EQ(HintsOf("plain", {}).kept, 0);
  EXPECT_EQ(HintsOf("plain", {}).passed, 0);
}

TEST(CudaSharedPlanesTest, NotWhereTheyDoNotFitNorWhereNobodyWantsIt) {
  EXPECT_EQ(HintsOf("svformer", {.keep_shared_planes = false}).kept, 0);
  constexpr int kFits = kKvHeads * (kPrompt + 1) * kTokenBytes;
  cuda_on_cpu::SetKeptCache(kFits);
  EXPECT_GT(HintsOf("svformer", {}).kept, 0);
  cuda_on_cpu::SetKeptCache(kFits - 1);
  const Hints hints = HintsOf("svformer", {});
  cuda_on_cpu::SetKeptCache(1 << 20);
  EXPECT_EQ(hints.kept, 0);
  EXPECT_EQ(hints.passed, 0);
}

TEST(CudaSharedPlanesTest, StepsAreTimedWhereThatIsAskedFor) {
  EXPECT_EQ(HintsOf("plain", {}).step_seconds, 0);
  EXPECT_GT(HintsOf("plain", {.times_steps = true}).step_seconds, 0);
}

}  // namespace
}  // namespace strata::testing::cuda_shared_planes_test
