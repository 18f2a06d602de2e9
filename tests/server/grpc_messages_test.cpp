// Contents of the messages, field by field: a value in the wrong field would still be valid.
#include "server/grpc/grpc_messages.h"

#include "gtest/gtest.h"

namespace strata::server::grpc_messages_test {
namespace {

TEST(GrpcMessagesTest, EachMetricOfARequestHasItsOwnField) {
  v1::Finished message;
  FillFinished({.reason = engine::FinishReason::kTimeLimit,
                .metrics = {.queue_seconds = 1,
                            .prefill_seconds = 2,
                            .decode_seconds = 3,
                            .time_to_first_token_seconds = 4,
                            .mean_inter_token_seconds = 5,
                            .max_inter_token_seconds = 6,
                            .prompt_tokens = 7,
                            .cached_tokens = 8,
                            .generated_tokens = 9,
                            .preemptions = 10,
                            .peak_key_bytes = 11,
                            .peak_value_bytes = 12,
                            .peak_score_bytes = 13,
                            .plain_cache_bytes = 14}},
               &message);
  EXPECT_EQ(message.reason(), v1::FINISH_REASON_TIME_LIMIT);
  const v1::RequestMetrics& metrics = message.metrics();
  EXPECT_EQ(metrics.queue_seconds(), 1);
  EXPECT_EQ(metrics.prefill_seconds(), 2);
  EXPECT_EQ(metrics.decode_seconds(), 3);
  EXPECT_EQ(metrics.time_to_first_token_seconds(), 4);
  EXPECT_EQ(metrics.mean_inter_token_seconds(), 5);
  EXPECT_EQ(metrics.max_inter_token_seconds(), 6);
  EXPECT_EQ(metrics.prompt_tokens(), 7);
  EXPECT_EQ(metrics.cached_tokens(), 8);
  EXPECT_EQ(metrics.generated_tokens(), 9);
  EXPECT_EQ(metrics.preemptions(), 10);
  EXPECT_EQ(metrics.peak_cache_bytes().keys(), 11U);
  EXPECT_EQ(metrics.peak_cache_bytes().values(), 12U);
  EXPECT_EQ(metrics.peak_cache_bytes().scores(), 13U);
  EXPECT_EQ(metrics.plain_cache_bytes(), 14U);
}

TEST(GrpcMessagesTest, LogProbabilitiesAndAttentionStandWithTheirTokens) {
  v1::Delta message;
  FillDelta({.index = 0,
             .text = "ab",
             .token_ids = {5, 6},
             .logprobs = {{.logprob = -1, .rank = 2, .top = {{7, -0.5F}, {5, -1}}},
                          {.logprob = -2, .rank = 3, .top = {{8, -0.25F}}}},
             .attention = {{0.5F, 0.5F}, {0.25F, 0.25F, 0.5F}}},
            &message);
  EXPECT_EQ(message.text(), "ab");
  ASSERT_EQ(message.token_ids_size(), 2);
  EXPECT_EQ(message.token_ids(1), 6);
  ASSERT_EQ(message.logprobs_size(), 2);
  EXPECT_EQ(message.logprobs(0).logprob(), -1);
  EXPECT_EQ(message.logprobs(0).rank(), 2);
  ASSERT_EQ(message.logprobs(0).top_size(), 2);
  EXPECT_EQ(message.logprobs(0).top(0).token_id(), 7);
  EXPECT_EQ(message.logprobs(0).top(0).logprob(), -0.5F);
  EXPECT_EQ(message.logprobs(1).top(0).token_id(), 8);
  ASSERT_EQ(message.attention_size(), 2);
  ASSERT_EQ(message.attention(1).probabilities_size(), 3);
  EXPECT_EQ(message.attention(1).probabilities(2), 0.5F);
}

}  // namespace
}  // namespace strata::server::grpc_messages_test
