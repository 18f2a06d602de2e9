#include "server/grpc/grpc_status.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/server/grpc_fixture.h"

namespace strata::testing::grpc_status_test {
namespace {

using GrpcStatusTest = GrpcServiceTest;

TEST_F(GrpcStatusTest, APromptThatIsTooLongHasAReason) {
  const grpc::Status status = StatusOf(Greedy(std::string(kTinyPositions, 'a'), 1));
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  ASSERT_EQ(details.details_size(), 2);
  google::rpc::BadRequest bad_request;
  ASSERT_TRUE(details.details(0).UnpackTo(&bad_request));
  EXPECT_EQ(bad_request.field_violations(0).field(), "prompt");
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(1).UnpackTo(&info));
  EXPECT_EQ(details.details(1).type_url(), "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(info.reason(), "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(info.domain(), "strata");
}

TEST_F(GrpcStatusTest, TheModelsNameIsTheFirstThatItIsServedBy) {
  engine::EngineOptions options;
  options.name = "org/first";
  Serve(options);
  grpc::ClientContext context;
  v1::Model model;
  ASSERT_TRUE(stub_->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "org/first");
}

}  // namespace
}  // namespace strata::testing::grpc_status_test
