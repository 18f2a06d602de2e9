#include "engine/model/model_name.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::model_name_test {
namespace {

const std::string kHash = "0123456789abcdef0123456789abcdef01234567";

TEST(ModelNameTest, IsTheFoldersOrTheRepositorysOfASnapshot) {
  const std::string cache = "/home/a/.cache/huggingface/hub/";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"/models/svformer", "svformer"},
      {"/models/svformer/", "svformer"},
      {"models/../svformer/.", "svformer"},
      {"svformer", "svformer"},
      {cache + "models--HuggingFaceTB--SmolLM-135M/snapshots/" + kHash,
       "HuggingFaceTB/SmolLM-135M"},
      {cache + "models--HuggingFaceTB--SmolLM-135M/snapshots/" + kHash + "/",
       "HuggingFaceTB/SmolLM-135M"},
      {cache + "models--gpt2/snapshots/" + kHash, "gpt2"},
      {cache + "models--a--b/snapshots/main", "a/b"},
      // Folders that are no snapshots of the cache.
      {cache + "models--a--b", "models--a--b"},
      {cache + "models--a--b/refs/" + kHash, kHash},
      {cache + "datasets--a--b/snapshots/" + kHash, kHash},
      {"/models/snapshots/" + kHash, kHash},
  };
  for (const auto& [dir, name] : cases) EXPECT_EQ(ModelNameOf(dir), name) << dir;
  const std::filesystem::path here = std::filesystem::current_path();
  EXPECT_EQ(ModelNameOf("."), here.filename().string());
  EXPECT_EQ(ModelNameOf(".."), here.parent_path().filename().string());
}

TEST(ModelNameTest, AnEngineHasItUnlessToldOtherwise) {
  const testing::ScratchDir scratch;
  const auto snapshot = scratch.path() / "models--org--tiny" / "snapshots" / kHash;
  std::filesystem::create_directories(snapshot.parent_path());
  std::filesystem::rename(testing::WriteModelDir(testing::MakeTinyModel({}), scratch.path()),
                          snapshot);
  EngineOptions options;
  options.model_dir = snapshot;
  options.threads = 1;
  const auto called = [&options] {
    const auto engine = Engine::Create(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return (*engine)->model().name;
  };
  EXPECT_EQ(called(), "org/tiny");
  options.name = "mine";
  EXPECT_EQ(called(), "mine");
}

}  // namespace
}  // namespace strata::engine::model_name_test
