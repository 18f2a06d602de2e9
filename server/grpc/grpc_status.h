#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace strata::server {

// The gRPC status of an error, with google.rpc details as inference.proto promises them:
// INVALID_ARGUMENT "field: value and limit" carries a BadRequest naming the field, and after it,
// where engine/base/error_code.h has a name for the error, an ErrorInfo with that in capitals; a
// full queue carries a RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace strata::server
