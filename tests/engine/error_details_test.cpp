#include "kvcache/base/error_details.h"

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/serve/request_check.h"
#include "gtest/gtest.h"

namespace strata::engine::error_details_test {
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

TEST(ErrorDetailsTest, AFieldIsDataAndPartOfTheMessage) {
  const absl::Status status = InvalidField("prompt[3]", 7, " is not in ", 0, "..", 5);
  EXPECT_EQ(status, InvalidField("prompt[3]", "7 is not in 0..5"));
  EXPECT_EQ(status.message(), "prompt[3]: 7 is not in 0..5");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FieldOf(status), "prompt[3]");
  // The message is not parsed.
  EXPECT_EQ(FieldOf(absl::InvalidArgumentError("prompt: 7 is not in 0..5")), "");
  EXPECT_EQ(FieldOf(WithField(absl::OkStatus(), "prompt")), "");
}

TEST(ErrorDetailsTest, AFieldIsAddedToWhatAnErrorCarries) {
  const absl::Status full = WithRetryAfter(
      WithErrorCode(absl::ResourceExhaustedError("9 wait"), "busy"), std::chrono::seconds(2));
  const absl::Status status = InField("queue", full);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "queue: 9 wait");
  EXPECT_EQ(FieldOf(status), "queue");
  EXPECT_EQ(ErrorCodeOf(status), "busy");
  EXPECT_EQ(RetryAfterOf(status), std::chrono::seconds(2));
  EXPECT_EQ(FieldOf(InField("outer", status)), "outer");
  EXPECT_EQ(RetryAfterOf(absl::ResourceExhaustedError("9 wait")), std::nullopt);
}

// Every refusal of a request names the same field in its data and in its words.
TEST(ErrorDetailsTest, RefusedRequestsNameTheirField) {
  const std::vector<std::pair<std::string, std::function<void(Request&)>>> wrong = {
      {"prompt", [](Request& r) { r.prompt.clear(); }},
      {"prompt", [](Request& r) { r.prompt[1] = 100; }},
      {"prompt", [](Request& r) { r.prompt.resize(513); }},
      {"max_tokens", [](Request& r) { r.sampling.max_tokens = 510; }},
      {"max_tokens", [](Request& r) { r.sampling.max_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.sampling.min_tokens = 11; }},
      {"temperature", [](Request& r) { r.sampling.temperature = -1; }},
      {"top_k", [](Request& r) { r.sampling.top_k = -1; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 2; }},
      {"min_p", [](Request& r) { r.sampling.min_p = 2; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0; }},
      {"frequency_penalty", [](Request& r) { r.sampling.frequency_penalty = 3; }},
      {"presence_penalty", [](Request& r) { r.sampling.presence_penalty = -3; }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{100, 1}};
       }},
      {"stop_token_ids", [](Request& r) { r.sampling.stop_ids = {-1}; }},
      {"allowed_token_ids", [](Request& r) { r.sampling.allowed_ids = {100}; }},
      {"bad_words", [](Request& r) { r.sampling.bad_words = {{}}; }},
      {"logprobs", [](Request& r) { r.sampling.logprobs = 21; }},
      {"prompt_logprobs", [](Request& r) { r.prompt_logprobs = 21; }},
      {"n", [](Request& r) { r.n = 65; }},
      {"priority", [](Request& r) { r.priority = 101; }},
      {"cache_salt", [](Request& r) { r.cache_salt.resize(257); }},
      {"attention", [](Request& r) {
         r.attention = {{0, 0}};
       }}};
  for (const auto& [field, change] : wrong) {
    const absl::Status status = Check(change);
    EXPECT_EQ(FieldOf(status), field) << status;
    EXPECT_EQ(status.message().substr(0, field.size() + 2), field + ": ") << status;
  }
}

TEST(ErrorDetailsTest, IsCarriedByAnErrorAlone) {
  const absl::Status status = WithErrorCode(absl::InvalidArgumentError("a: b"), "some_code");
  EXPECT_EQ(ErrorCodeOf(status), "some_code");
  EXPECT_EQ(status.message(), "a: b");
  EXPECT_EQ(ErrorCodeOf(absl::InvalidArgumentError("a: b")), "");
  EXPECT_EQ(ErrorCodeOf(WithErrorCode(absl::OkStatus(), "some_code")), "");
}

TEST(ErrorDetailsTest, APromptOverTheModelOrTheCacheSaysSo) {
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
}  // namespace strata::engine::error_details_test
