// Files of a model's folder that say what to compute: config.json and generation_config.json.

#include <filesystem>
#include <optional>
#include <string>

#include "engine/model/architectures.h"
#include "engine/model/hf_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/llama_config.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::model_dir_test {
namespace {

using ::strata::testing::LlamaConfig;
using ::strata::testing::WriteFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string With(const char* key, int value) {
  nlohmann::json config = LlamaConfig();
  config[key] = value;
  return config.dump();
}

class ModelDirTest : public ::testing::Test {
 protected:
  const strata::testing::ScratchDir scratch_;
  const std::filesystem::path dir_ = scratch_.path();
};

TEST_F(ModelDirTest, ReadsConfigAndEndsOfGeneration) {
  WriteFile(dir_ / "config.json", With("eos_token_id", 9));
  EXPECT_THAT(ReadModelSpec(HfDirectory(dir_))->eos_ids, ElementsAre(9));
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": [2, 9, 4], "temperature": 0.8})");
  EXPECT_THAT(ReadModelSpec(HfDirectory(dir_))->eos_ids, ElementsAre(2, 4, 9));
  WriteFile(dir_ / "generation_config.json", R"({"eos_token_id": null})");
  EXPECT_THAT(ReadModelSpec(HfDirectory(dir_))->eos_ids, ElementsAre(9));
}

TEST_F(ModelDirTest, GenerationConfigHasTheDefaultsOfSampling) {
  WriteFile(dir_ / "config.json", LlamaConfig().dump());
  EXPECT_EQ(ReadModelSpec(HfDirectory(dir_))->defaults.temperature, std::nullopt);
  WriteFile(dir_ / "generation_config.json",
            R"({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "do_sample": true,
                "repetition_penalty": 1.05, "max_new_tokens": 2048, "max_length": 20})");
  const SamplingDefaults all = ReadModelSpec(HfDirectory(dir_))->defaults;
  EXPECT_EQ(all.temperature, 0.6F);
  EXPECT_EQ(all.top_p, 0.95F);
  EXPECT_EQ(all.top_k, 20);
  EXPECT_EQ(all.min_p, 0.05F);
  EXPECT_EQ(all.repetition_penalty, 1.05F);
  EXPECT_EQ(all.max_tokens, 2048);
  WriteFile(dir_ / "generation_config.json", R"({"top_k": -1, "top_p": null})");
  const SamplingDefaults few = ReadModelSpec(HfDirectory(dir_))->defaults;
  EXPECT_EQ(few.top_k, 0);
  EXPECT_EQ(few.top_p, std::nullopt);
}

TEST_F(ModelDirTest, NamesTheFileThatIsWrong) {
  const std::string config = (dir_ / "config.json").string();
  const std::string generation = (dir_ / "generation_config.json").string();
  const auto message = [this] {
    return std::string(ReadModelSpec(HfDirectory(dir_)).status().message());
  };

  EXPECT_EQ(ReadModelSpec(HfDirectory(dir_)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(message(), config + ": no such file");
  EXPECT_EQ(ReadModelSpec(HfDirectory(dir_ / "none")).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_directory(config);
  EXPECT_EQ(message(), config + ": not a file");
  std::filesystem::remove(config);
  WriteFile(config, With("vocab_size", 0));
  EXPECT_EQ(message(), config + ": vocab_size: expected a whole number from 1 to 16777216, got 0");
  WriteFile(config, std::string((16 << 20) + 1, ' '));
  EXPECT_EQ(message(), config + ": 16777217 bytes, the limit is 16777216");

  WriteFile(config, LlamaConfig().dump());
  WriteFile(generation, "[]");
  EXPECT_EQ(message(), generation + ": expected an object, got []");
  WriteFile(generation, R"({"eos_token_id": 100})");
  EXPECT_EQ(message(),
            generation + ": eos_token_id: expected a whole number from 0 to 99, got 100");
  WriteFile(generation, R"({"temperature": -1})");
  EXPECT_THAT(
      message(),
      HasSubstr(generation + ": temperature: expected a number from 0 to 3.40282e+38, got -1"));
  WriteFile(generation, R"({"top_p": "0.9"})");
  EXPECT_EQ(message(), generation + ": top_p: expected a number from 0 to 1, got \"0.9\"");
  WriteFile(generation, R"({"max_new_tokens": 0})");
  EXPECT_THAT(message(),
              HasSubstr(generation +
                        ": max_new_tokens: expected a whole number from 1 to 2147483647, got 0"));
  WriteFile(generation, "{");
  EXPECT_THAT(message(), HasSubstr("generation_config.json: not JSON"));
}

}  // namespace
}  // namespace strata::engine::model_dir_test
