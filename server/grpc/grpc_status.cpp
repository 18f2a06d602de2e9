#include "server/grpc/grpc_status.h"

#include <string>

#include "absl/strings/ascii.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "kvcache/base/error_details.h"

namespace strata::server {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  if (absl::IsInvalidArgument(status)) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(FieldOf(status));
    violation->set_description(message);
    details.add_details()->PackFrom(bad_request);
    if (const std::string code = ErrorCodeOf(status); !code.empty()) {
      google::rpc::ErrorInfo info;
      info.set_reason(absl::AsciiStrToUpper(code));
      info.set_domain("strata");
      details.add_details()->PackFrom(info);
    }
  } else if (const auto delay = RetryAfterOf(status)) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(delay->count());
    details.add_details()->PackFrom(retry);
  }
  // The codes of absl and gRPC are the same numbers.
  return {static_cast<grpc::StatusCode>(status.code()), message, details.SerializeAsString()};
}

}  // namespace strata::server
