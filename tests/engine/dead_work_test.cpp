// Only work that the plan reads is done: matrix products and bytes written, counted for each kind
// of plan; rows after the last layer that writes; finished outputs instead of attention.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::dead_work_test {
namespace {

using nlohmann::json;

constexpr int kLayers = 6;
constexpr kvcache::AttentionShape kShape = {kLayers, 4, 2, 8};
constexpr int64_t kPlaneRow = 8 * sizeof(float);

// A layer runs one product for its projections, if any is left, and three more; the head is one.
// Rows without wanted logits end at the projections of the last layer that writes.
struct Work {
  std::string name;
  json cross_layer;
  int decode_products;  // of a step with one row, with logits
  int prompt_products;  // of a chunk without logits
  int planes_written;   // rows of planes for each token, over both kv heads
  int planes_read;      // by a decode step with stored scores, for each context token
  int scores_read;
};

std::vector<Work> Plans() {
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  return {
      {"plain", nullptr, 25, 21, 24, 24, 0},
      {"resformer", {{"preset", "resformer"}}, 25, 21, 24, 24, 0},
      {"svformer", svformer, 25, 21, 14, 24, 0},
      {"reuse", reuse, 25, 21, 16, 16, 16},
      // Layers 1 to 3 and 5 project nothing and take the output of the layer below. Prompts skip
      // layer 5, and all of layer 4 but its keys.
      {"svformer-reuse", {svformer, reuse}, 21, 14, 6, 8, 0},
      // Layers 1, 3 and 5 project queries alone.
      {"cla", {{"preset", "cla"}, {"factor", 2}}, 25, 17, 12, 24, 0},
      // Above layer 2 nothing is written.
      {"fusedkv-lite", {{"preset", "fusedkv-lite"}, {"layer", 2}}, 25, 9, 12, 24, 0},
      // The skipping heads' own planes in layers 4 and 5 have no reader.
      {"sla", {{"preset", "sla"}, {"skip_layers", 4}, {"skip_heads", 2}}, 25, 21, 20, 24, 0},
  };
}

kernels::BackendCounters StepOf(EngineRunner& runner) {
  const kernels::BackendCounters before = runner.core().backend().counters();
  runner.Step();
  kernels::BackendCounters step = runner.core().backend().counters();
  step.matrix_products -= before.matrix_products;
  step.cache_bytes_written -= before.cache_bytes_written;
  step.cache_bytes_read -= before.cache_bytes_read;
  step.score_bytes_read -= before.score_bytes_read;
  return step;
}

TEST(DeadWorkTest, StepsRunWhatThePlanReads) {
  for (const Work& work : Plans()) {
    SCOPED_TRACE(work.name);
    const ScratchDir scratch;
    const TinyModel model = MakeTinyModel({.attention = kShape, .cross_layer = work.cross_layer});
    EngineRunner runner({.model_dir = WriteModelDir(model, scratch.path()),
                         .device = "cpu",
                         .threads = 1,
                         .cross_layer = {},
                         .score_reuse = engine::ScoreReuse::kStore,
                         .max_prefill_chunk = 16});
    runner.MustSubmit("a", RandomPrompt(1, 40, 96), Greedy(3));
    const kernels::BackendCounters chunk = StepOf(runner);
    EXPECT_EQ(chunk.matrix_products, work.prompt_products);
    EXPECT_EQ(chunk.cache_bytes_written, 16 * work.planes_written * kPlaneRow);
    StepOf(runner);
    EXPECT_EQ(StepOf(runner).matrix_products, work.decode_products) << "the prompt's last chunk";
    const kernels::BackendCounters decode = StepOf(runner);
    EXPECT_EQ(decode.matrix_products, work.decode_products);
    EXPECT_EQ(decode.cache_bytes_written, work.planes_written * kPlaneRow);
    EXPECT_EQ(decode.cache_bytes_read, 41 * work.planes_read * kPlaneRow);
    EXPECT_EQ(decode.score_bytes_read, 41 * work.scores_read * 4);
  }
}

// SVFormer and partial reuse hand outputs to other columns: with one kv head every head's values
// are the same, and layer 2 takes into its heads 0 and 1 the outputs of layer 1's heads 2 and 3.
TEST(DeadWorkTest, OutputsAreTakenAcrossColumns) {
  const kvcache::AttentionShape shape = {3, 4, 1, 8};
  const json plan = {{{"preset", "svformer"}},
                     {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 2}}};
  const ScratchDir scratch;
  const TinyModel model = MakeTinyModel({.attention = shape, .cross_layer = plan});
  EngineRunner runner({.model_dir = WriteModelDir(model, scratch.path()),
                       .device = "cpu",
                       .threads = 1,
                       .cross_layer = {}});
  EXPECT_EQ(runner.core().model().plan.score_bytes_per_token, 0U);
  runner.MustSubmit("a", RandomPrompt(1, 10, 96), Greedy(3));
  StepOf(runner);
  // Each layer's own keys and V_0 once, for the heads that compute.
  EXPECT_EQ(StepOf(runner).cache_bytes_read, 3 * 2 * 11 * kPlaneRow);
}

// Counts the calls that would copy every row onto itself.
class WatchesGathers final : public NullBackend {
 public:
  explicit WatchesGathers(int* idle) : idle_(idle) {}
  void GatherRows(kernels::ConstRows x, std::span<const int32_t> rows, kernels::Rows out) override {
    bool idle = true;
    for (size_t i = 0; i < rows.size(); ++i) {
      idle = idle && x.data + rows[i] * x.stride == out.data + static_cast<int64_t>(i) * out.stride;
    }
    *idle_ += idle ? 1 : 0;
  }

 private:
  int* const idle_;
};

// Decode rows, alone or before a chunk without wanted logits, are already at the front.
TEST(DeadWorkTest, NoRowsAreCopiedOntoThemselves) {
  const ScratchDir scratch;
  const TinyModel model = MakeTinyModel({.attention = kShape});
  int idle = 0;
  const auto core = engine::EngineCore::Create(
      {.model_dir = WriteModelDir(model, scratch.path()), .max_prefill_chunk = 16},
      std::make_unique<WatchesGathers>(&idle));
  ASSERT_TRUE(core.ok()) << core.status();
  const auto add = [&](const std::string& id, int32_t prompt) {
    (*core)->Add({.id = id, .prompt = RandomPrompt(1, prompt, 96), .sampling = Greedy(12)},
                 std::make_shared<Recording>(), std::chrono::steady_clock::now());
  };
  add("a", 5);
  add("b", 7);
  for (int i = 0; i < 4; ++i) (*core)->Step();
  EXPECT_EQ(idle, 0) << "prompts, then steps of two decodes";
  add("c", 40);
  for (int i = 0; i < 2; ++i) (*core)->Step();
  EXPECT_EQ(idle, 0) << "two decodes and a chunk";
  while ((*core)->HasWork()) (*core)->Step();
  EXPECT_EQ(idle, 0);
}

}  // namespace
}  // namespace strata::testing::dead_work_test
