#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace strata::server {

// The gRPC status of an error, with google.rpc details as inference.proto promises them:
// INVALID_ARGUMENT "field: value and limit" carries a BadRequest naming the field,
// a full queue a RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace strata::server
