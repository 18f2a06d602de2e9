#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace strata::server {

// The gRPC status of an error, with the google.rpc details of inference.proto: INVALID_ARGUMENT
// "field: value and limit" carries a BadRequest naming the field and, if the error has an error
// code (kvcache/base/error_details.h), an ErrorInfo with the code in capitals; a full queue carries
// a RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace strata::server
