#include "engine/base/error_code.h"

#include <functional>
#include <string>
#include <vector>

#include "engine/serve/request_check.h"
#include "gtest/gtest.h"

namespace strata::engine::error_code_test {
namespace {

absl::Status Check(const std::function<void(Request&)>& change) {
  ModelInfo model;
  model.vocab_size = 100;
  model.max_positions = 512;
  model.cache_tokens = 400;
  Request request = {.id = "a", .prompt = {1, 2, 3}, .sampling = {.max_tokens = 10}};
  change(request);
  return CheckRequest(request, model);
}

TEST(ErrorCodeTest, IsCarriedByAnErrorAlone) {
  const absl::Status status = WithErrorCode(absl::InvalidArgumentError("a: b"), "some_code");
  EXPECT_EQ(ErrorCodeOf(status), "some_code");
  EXPECT_EQ(status.message(), "a: b");
  EXPECT_EQ(ErrorCodeOf(absl::InvalidArgumentError("a: b")), "");
  EXPECT_EQ(ErrorCodeOf(WithErrorCode(absl::OkStatus(), "some_code")), "");
}

TEST(ErrorCodeTest, APromptOverTheModelOrTheCacheSaysSo) {
  const std::vector<std::function<void(Request&)>> too_long = {
      [](Request& r) { r.prompt.resize(513); },
      [](Request& r) { r.prompt.resize(450); },         // over the cache
      [](Request& r) { r.sampling.max_tokens = 510; },  // with what follows it
      [](Request& r) { r.sampling.max_tokens = 399; },  // likewise over the cache
  };
  for (size_t i = 0; i < too_long.size(); ++i) {
    const absl::Status status = Check(too_long[i]);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << i;
    EXPECT_EQ(ErrorCodeOf(status), "context_length_exceeded") << i << status;
  }
  const std::vector<std::function<void(Request&)>> others = {
      [](Request& r) { r.prompt.clear(); }, [](Request& r) { r.prompt[0] = 100; },
      [](Request& r) { r.sampling.temperature = -1; }, [](Request& r) { r.n = 65; }};
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_EQ(ErrorCodeOf(Check(others[i])), "") << i;
    EXPECT_FALSE(Check(others[i]).ok()) << i;
  }
}

}  // namespace
}  // namespace strata::engine::error_code_test
