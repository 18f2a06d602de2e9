#include "server/grpc_status.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "engine/retry_after.h"
#include "google/protobuf/util/time_util.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace strata::server {
namespace {

// "temperature" of "temperature: -1, must be at least 0"; empty where the message names no field.
std::string FieldOf(const std::string& message) {
  const size_t colon = message.find(':');
  if (colon == std::string::npos) return "";
  std::string field = message.substr(0, colon);
  const bool is_name = std::all_of(field.begin(), field.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '[' || c == ']';
  });
  return is_name ? field : "";
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message(status.message());
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  if (absl::IsInvalidArgument(status)) {
    google::rpc::BadRequest bad_request;
    auto* violation = bad_request.add_field_violations();
    violation->set_field(FieldOf(message));
    violation->set_description(message);
    details.add_details()->PackFrom(bad_request);
  } else if (const auto delay = engine::RetryAfterOf(status)) {
    google::rpc::RetryInfo retry;
    *retry.mutable_retry_delay() =
        google::protobuf::util::TimeUtil::MillisecondsToDuration(delay->count());
    details.add_details()->PackFrom(retry);
  }
  // The codes of absl and gRPC are the same numbers.
  return {static_cast<grpc::StatusCode>(status.code()), message, details.SerializeAsString()};
}

}  // namespace strata::server
