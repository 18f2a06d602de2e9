#include "tests/support/naive_decoder.h"

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/naive_architectures.h"
#include "tests/support/raw_tensors.h"

namespace strata::testing::naive_decoder_test {
namespace {

class NaiveDecoderTest : public ::testing::TestWithParam<const char*> {};

// The judge itself is judged: Hugging Face's logits of tiny random checkpoints, in f32. The tables
// beside them say that the smallest wrong reading moves a logit by 0.49.
TEST_P(NaiveDecoderTest, GivesTransformersLogits) {
  const std::filesystem::path dir =
      std::filesystem::path(STRATA_SOURCE_DIR) / "../shared/tiny" / GetParam();
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << dir << " is not there";
  const RawTensors golden = ReadRawTensors(dir / "golden.safetensors");
  const std::vector<int32_t> prompt = golden.at("prompt").Ints();
  const std::vector<double> expected = golden.at("logits").Doubles();

  const NaiveDecoder decoder(ReadNaiveConfig(ReadFile(dir / "config.json")),
                             AsNaive(ReadRawTensors(dir / "model.safetensors")), NaivePlain());
  const NaiveMatrix logits = decoder.Logits(prompt, 0);
  ASSERT_EQ(logits.values.size(), expected.size());
  double furthest = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    furthest = std::fmax(furthest, std::fabs(logits.values[i] - expected[i]));
  }
  EXPECT_LT(furthest, 2e-4);
}
INSTANTIATE_TEST_SUITE_P(Families, NaiveDecoderTest,
                         ::testing::Values("llama", "llama_plain", "llama_linear",
                                           "llama_rope_llama3", "mistral", "qwen2", "qwen3",
                                           "gemma2", "olmo2", "granite", "arcee", "smollm3",
                                           "cohere"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace strata::testing::naive_decoder_test
