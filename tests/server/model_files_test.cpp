// Messages of the program about a model's files and a given text.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/cli/commands.h"
#include "server/server.h"
#include "tests/server/captured_log.h"
#include "tests/server/served_model.h"
#include "tests/support/tiny_model.h"

namespace strata::server::model_files_test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The log of a server at the load of a model that shares layer 0's values.
std::string LogOfStart(bool trim) {
  const testing::ScratchDir scratch;
  testing::TinyModelOptions model;
  model.vocab_size = testing::kTinyVocab;
  model.cross_layer = {{"preset", "svformer"}};
  model.trim = trim;
  const auto dir = testing::WriteModelDir(testing::MakeTinyModel(model), scratch.path());
  testing::WriteFile(dir / "tokenizer.json", testing::ByteTokenizerJson());
  const testing::CapturedLog log;
  ServeOptions options;
  options.model_dir = dir.string();
  options.grpc_address = "127.0.0.1:0";
  options.http_address = "";
  options.engine.cache_bytes = size_t{1} << 20;
  const auto server = Server::Start(options);
  EXPECT_TRUE(server.ok()) << server.status();
  return log.text();
}

TEST(ModelFilesTest, TensorsThatThePlanLeavesUnreadAreLoggedOnceSummedUp) {
  const std::string line =
      "checkpoint: 3 tensors are unread under this plan, 0.0 MB: "
      "model.layers.1.self_attn.v_proj.weight ...\n";
  const std::string text = LogOfStart(/*trim=*/false);
  EXPECT_THAT(text, HasSubstr(line));
  EXPECT_EQ(text.find("checkpoint:"), text.rfind("checkpoint:")) << text;
  EXPECT_THAT(LogOfStart(/*trim=*/true), Not(HasSubstr("checkpoint:")));
}

// The perplexity of a pointer would look like any other number.
TEST(ModelFilesTest, APointerInPlaceOfATextIsNotEvaluated) {
  const testing::TinyModelDir model;
  const std::string text = (model.path() / "valid.txt").string();
  testing::WriteFile(text, "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n");
  EvalOptions options;
  options.model_dir = model.path().string();
  options.text = text;
  EXPECT_EQ(RunEval(options).message(),
            "--text: " + text + ": a Git LFS pointer, not the file itself; run git lfs pull");
}

}  // namespace
}  // namespace strata::server::model_files_test
