#include "engine/base/model_source.h"

#include <string>

#include "engine/model/architectures.h"
#include "engine/model/hf_directory.h"
#include "engine/model/tensor_source.h"
#include "engine/serve/engine.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::model_source_test {
namespace {

using ::strata::testing::WriteFile;
using ::testing::HasSubstr;

class HfDirectoryTest : public ::testing::Test {
 protected:
  std::string Template() const {
    const auto found = HfDirectory(scratch_.path()).ChatTemplate();
    return found.ok() ? *found : std::string(found.status().message());
  }
  void Write(const char* file, const std::string& text) const {
    WriteFile(scratch_.path() / file, text);
  }
  const strata::testing::ScratchDir scratch_;
};

TEST_F(HfDirectoryTest, FindsTheChatTemplate) {
  EXPECT_EQ(Template(), "");
  Write("tokenizer_config.json", R"({"chat_template":null})");
  EXPECT_EQ(Template(), "");
  Write("tokenizer_config.json", R"({"chat_template":"{{ a }}"})");
  EXPECT_EQ(Template(), "{{ a }}");
  Write("tokenizer_config.json",
        R"({"chat_template":[{"name":"rag","template":"r"},{"name":"default","template":"d"}]})");
  EXPECT_EQ(Template(), "d");
  Write("tokenizer_config.json", R"({"chat_template":[{"name":"rag","template":"r"}]})");
  EXPECT_EQ(Template(), "");
  Write("tokenizer_config.json", R"({"chat_template":3})");
  EXPECT_THAT(Template(), HasSubstr("tokenizer_config.json: chat_template: expected a string"));
  Write("chat_template.jinja", "{{ b }}");
  EXPECT_EQ(Template(), "{{ b }}") << "the file of its own comes first";
}

TEST_F(HfDirectoryTest, WhatIsNotThere) {
  const HfDirectory source(scratch_.path());
  EXPECT_TRUE(absl::IsNotFound(source.Config().status()));
  EXPECT_TRUE(source.GenerationConfig()->json.is_null());
  EXPECT_TRUE(absl::IsNotFound(source.Tokenizer().status()));
  EXPECT_TRUE(absl::IsNotFound(source.OpenTensors().status()));
}

TEST(ModelSourceTest, AnEngineTakesAnOpenModel) {
  const strata::testing::ScratchDir scratch;
  const auto dir =
      strata::testing::WriteModelDir(strata::testing::MakeTinyModel({}), scratch.path());
  const auto engine = Engine::Create({.model_dir = "/no/such/model",
                                      .source = OpenModel(dir).value(),
                                      .device = "cpu",
                                      .cache_bytes = size_t{1} << 20});
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->model().name, dir.filename().string());
}

TEST(ModelSourceTest, AShapeAnswersEverythingButAChat) {
  const auto source = OpenModel("", "reference-2m-gqa").value();
  const ModelSpec spec = ReadModelSpec(*source).value();
  EXPECT_EQ(spec.shape(), (kvcache::AttentionShape{8, 4, 2, 32}));
  EXPECT_EQ(spec.dtype, kernels::ElementType::kBF16);
  EXPECT_EQ(source->Tokenizer()->words, spec.vocab_size);
  EXPECT_EQ(*source->ChatTemplate(), "");
  const auto tensors = source->OpenTensors().value();
  EXPECT_EQ(tensors->Find("model.layers.7.mlp.up_proj.weight")->shape,
            (std::vector<int64_t>{352, 128}));
  EXPECT_TRUE(absl::IsNotFound(tensors->Find("model.layers.8.mlp.up_proj.weight").status()));
  EXPECT_THAT(std::string(OpenModel("", "gpt-7").status().message()),
              HasSubstr("shape: \"gpt-7\" is not one of reference-2m"));
}

}  // namespace
}  // namespace strata::engine::model_source_test
