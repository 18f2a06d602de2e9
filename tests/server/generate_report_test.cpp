#include "server/cli/generate_report.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace strata::server::generate_report_test {
namespace {

SequenceResult Sequence(const std::string& text, v1::FinishReason reason) {
  SequenceResult sequence;
  sequence.text = text;
  sequence.token_ids = {4, 5};
  sequence.reason = reason;
  v1::TokenLogprobs token;
  token.set_logprob(-0.5F);
  token.set_rank(1);
  v1::TokenLogprob* top = token.add_top();
  top->set_token_id(4);
  top->set_logprob(-0.5F);
  sequence.logprobs = {token, token};
  sequence.metrics.set_generated_tokens(2);
  return sequence;
}

TEST(GenerateReportTest, ASingleSequenceStandsInTheObjectItself) {
  GenerateResult result;
  result.request_id = "a";
  result.prompt_token_ids = {1};
  result.seed = 7;
  result.sequences = {Sequence("x", v1::FINISH_REASON_TIME_LIMIT)};
  const std::string text = ResultJson(result);
  EXPECT_EQ(text.back(), '\n');
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["text"], "x");
  EXPECT_EQ(json["finish_reason"], "time_limit");
  EXPECT_EQ(json["token_ids"], (std::vector<int>{4, 5}));
  EXPECT_EQ(json["metrics"]["generated_tokens"], 2);
  EXPECT_EQ(json["logprobs"][1], nlohmann::json::parse(R"({
      "logprob": -0.5, "rank": 1, "top": [{"token_id": 4, "logprob": -0.5}]})"));
  EXPECT_EQ(json["seed"], 7);
  EXPECT_FALSE(json.contains("sequences"));
  EXPECT_FALSE(json.contains("prompt_logprobs"));
}

TEST(GenerateReportTest, SeveralStandInAnArray) {
  GenerateResult result;
  result.request_id = "a";
  result.prompt_token_ids = {1, 2};
  result.sequences = {Sequence("x", v1::FINISH_REASON_STOP),
                      Sequence("y", v1::FINISH_REASON_LENGTH)};
  result.prompt_logprobs = {result.sequences[0].logprobs[0]};
  const auto json = nlohmann::json::parse(ResultJson(result));
  ASSERT_EQ(json["sequences"].size(), 2U);
  EXPECT_EQ(json["sequences"][0]["text"], "x");
  EXPECT_EQ(json["sequences"][1]["finish_reason"], "length");
  EXPECT_EQ(json["prompt_logprobs"].size(), 1U);
  EXPECT_EQ(json["request_id"], "a");
  EXPECT_FALSE(json.contains("text"));
}

}  // namespace
}  // namespace strata::server::generate_report_test
