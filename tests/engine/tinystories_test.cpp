// A real checkpoint by somebody else against the oracle: f32, grouped heads, tied embeddings stored
// only as lm_head.weight.
#include <cstdlib>
#include <filesystem>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/plan_cases.h"
#include "tests/support/raw_tensors.h"

namespace strata::testing::tinystories_test {
namespace {

constexpr double kF32Bound = 1e-4;  // as in plans_vs_naive_test.cpp

TEST(TinyStoriesTest, GreedyTextOfTheOracle) {
  const char* const given = std::getenv("STRATA_TEST_DATA");
  const std::filesystem::path data =
      given != nullptr ? std::filesystem::path(given)
                       : std::filesystem::path(STRATA_SOURCE_DIR) / "../shared/data";
  const std::filesystem::path dir = data / "models" / "tinystories-656k";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << dir << " is not there";

  // "<|start_story|>Once upon a time, there was a little girl named"
  std::vector<int32_t> tokens = {1, 80, 147, 201, 282, 215, 286, 451, 236, 192};
  const auto prompt_tokens = static_cast<int>(tokens.size());
  constexpr int kTokens = 48;
  EngineRunner runner({.model_dir = dir, .device = "cpu", .cross_layer = {}});
  runner.MustSubmit("a", tokens, Greedy(kTokens));
  runner.Run();
  const Recording& got = runner["a"];
  ASSERT_EQ(got.tokens.size(), static_cast<size_t>(kTokens));

  tokens.insert(tokens.end(), got.tokens.begin(), got.tokens.end() - 1);
  const NaiveMatrix expected =
      NaiveDecoder(ReadNaiveConfig(ReadFile(dir / "config.json")),
                   AsNaive(ReadRawTensors(dir / "model.safetensors")), NaivePlain())
          .Logits(tokens, prompt_tokens - 1);
  for (int i = 0; i < kTokens; ++i) {
    const auto step = static_cast<size_t>(i);
    EXPECT_LE(RelativeDeviation(got.logits[step], expected.row(i)), kF32Bound) << "step " << i;
    EXPECT_EQ(got.tokens[step], Choose({expected.row(i), static_cast<size_t>(expected.cols)}).token)
        << "step " << i;
  }
  EXPECT_EQ(runner.core().model().plan.ratio, 1);
}

}  // namespace
}  // namespace strata::testing::tinystories_test
