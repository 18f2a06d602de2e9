#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "server/cli/access.h"

// Common parts of the subcommands that call a server.
namespace strata::server {

// A connected channel to HOST:PORT. UNAVAILABLE, one line, if there is no server or it does not
// answer within seconds.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& address,
                                                       const Access& access);

// OK, or "CODE: message" as one line.
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace strata::server
