// The models that ship against tests/golden/, written by tests/reference/golden.py in float64 from
// the bf16 weights as shipped.
//
// f32: logits within 1e-4 of the largest, as argued in plans_vs_naive_test.cpp, and the same 64
// greedy tokens. bf16: the weights are exact there too, only keys and values are rounded (2^-9
// each). Logits therefore deviate by at most about 2 L 2^-9 of the largest, and a token may differ
// if the golden margin is below twice that; the first 32 must agree all the same.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/plan_cases.h"
#include "tests/support/raw_tensors.h"

namespace strata::testing::golden_test {
namespace {

constexpr int kPrompts = 3;
constexpr size_t kSureTokens = 32;

struct Golden {
  std::vector<int32_t> prompt_ids;
  std::vector<double> logits;
  std::vector<int32_t> greedy_ids;
  std::vector<double> margins;
};

Golden ReadGolden(const RawTensors& tensors, int prompt) {
  const std::string suffix = std::string(1, '.').append(std::to_string(prompt));
  return {.prompt_ids = tensors.at("prompt_ids" + suffix).Ints(),
          .logits = tensors.at("logits" + suffix).Doubles(),
          .greedy_ids = tensors.at("greedy_ids" + suffix).Ints(),
          .margins = tensors.at("greedy_margins" + suffix).Doubles()};
}

class GoldenTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* const elsewhere = std::getenv("STRATA_SOURCE_DIR");  // of an unpacked bundle
    const std::filesystem::path source = elsewhere != nullptr ? elsewhere : STRATA_SOURCE_DIR;
    const auto file = source / "tests" / "golden" / (std::string(GetParam()) + ".safetensors");
    ASSERT_TRUE(std::filesystem::exists(file)) << file;
    tensors_ = ReadRawTensors(file);
    options_ = {
        .model_dir = source / "deploy" / "models" / GetParam(), .device = "cpu", .cross_layer = {}};
  }

  // All prompts in one batch.
  std::unique_ptr<EngineRunner> Run(const std::string& weights) {
    options_.weights = weights;
    auto runner = std::make_unique<EngineRunner>(options_);
    for (int k = 0; k < kPrompts; ++k) {
      const Golden golden = ReadGolden(tensors_, k);
      runner->MustSubmit(std::to_string(k), golden.prompt_ids,
                         Greedy(static_cast<int32_t>(golden.greedy_ids.size())));
    }
    runner->Run();
    return runner;
  }

  RawTensors tensors_;
  engine::EngineOptions options_;
};

TEST_P(GoldenTest, F32) {
  const auto runner = Run("f32");
  for (int k = 0; k < kPrompts; ++k) {
    SCOPED_TRACE("prompt " + std::to_string(k));
    const Golden golden = ReadGolden(tensors_, k);
    const Recording& got = (*runner)[std::to_string(k)];
    ASSERT_EQ(golden.greedy_ids.size(), 64U);
    ASSERT_EQ(got.logits[0].size(), golden.logits.size());
    EXPECT_LE(RelativeDeviation(got.logits[0], golden.logits.data()), 1e-4);
    EXPECT_EQ(got.tokens, golden.greedy_ids);
  }
}

TEST_P(GoldenTest, Bf16) {
  const auto runner = Run("bf16");
  const int layers = runner->core().model().plan.num_layers;
  for (int k = 0; k < kPrompts; ++k) {
    SCOPED_TRACE("prompt " + std::to_string(k));
    const Golden golden = ReadGolden(tensors_, k);
    const Recording& got = (*runner)[std::to_string(k)];
    const double bound = 2.0 * layers / 512;
    const double deviation = RelativeDeviation(got.logits[0], golden.logits.data());
    EXPECT_LE(deviation, bound);
    // An f32 run named bf16 would pass everything below.
    EXPECT_GT(deviation, 1e-5);
    const auto [got_end, golden_end] =
        std::mismatch(got.tokens.begin(), got.tokens.end(), golden.greedy_ids.begin());
    if (got_end == got.tokens.end()) continue;
    const auto step = static_cast<size_t>(got_end - got.tokens.begin());
    double largest = 0;
    for (const float logit : got.logits[step])
      largest = std::max(largest, std::fabs(double{logit}));
    EXPECT_GE(step, kSureTokens) << *got_end << " for " << *golden_end;
    EXPECT_LE(golden.margins[step], 2 * bound * largest) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Shipped, GoldenTest,
                         ::testing::Values("plain", "svformer", "resformer", "reuse", "sla",
                                           "svformer-reuse"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace strata::testing::golden_test
