// Fields of gRPC's messages: fields that the API lacks, and fields that only some answers have.
#include <string>

#include "gtest/gtest.h"
#include "tests/server/grpc_fixture.h"

namespace strata::testing::grpc_fields_test {
namespace {

using GrpcFieldsTest = GrpcServiceTest;

// A later client's field would otherwise be dropped in silence.
TEST_F(GrpcFieldsTest, FieldsThatTheApiLacksAreRefused) {
  v1::GenerateRequest request = Greedy("abc", 3);
  request.GetReflection()->MutableUnknownFields(&request)->AddVarint(999, 1);
  grpc::Status status = StatusOf(request);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "GenerateRequest: field 999 is not recognised");
  request = Greedy("abc", 3);
  v1::AttentionHead* head = request.add_attention();
  head->GetReflection()->MutableUnknownFields(head)->AddVarint(7, 1);
  EXPECT_EQ(StatusOf(request).error_message(), "AttentionHead: field 7 is not recognised");
}

TEST_F(GrpcFieldsTest, TheTokenThatEndsAnOutputStandsInFinished) {
  v1::GenerateRequest request = Greedy("abc", 5);
  request.set_ignore_eos(false);
  (*request.mutable_logit_bias())[kEosId] = 100;
  request.set_logprobs(1);
  Stream stream(stub_.get(), request);
  EXPECT_TRUE(stream.Rest().ok());
  EXPECT_TRUE(stream.ids.empty());
  const v1::Finished& finished = stream.finished;
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished.metrics().generated_tokens(), 0);
  ASSERT_TRUE(finished.has_end_token_id());
  EXPECT_EQ(finished.end_token_id(), kEosId);
  EXPECT_EQ(finished.end_logprobs().top_size(), 1);
}

}  // namespace
}  // namespace strata::testing::grpc_fields_test
