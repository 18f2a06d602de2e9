#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/security/server_credentials.h"
#include "server/security/tls.h"

namespace strata::server {

// Whether a call may be made: `path` is /package.Service/Method, `authorization` the metadata of
// that name, empty where there is none. Called on gRPC's threads, at once when a call's headers are
// there and before any of its messages is read; must not block.
using CallGate = std::function<absl::Status(std::string_view path, std::string_view authorization)>;

// What a port is opened with: TLS by the store's identity at the time of each handshake, or none
// where `tls` is null; and a gate for every call, none where it is empty. `tls`, what the gate uses
// and the credentials themselves outlive the server.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsStore* tls, CallGate gate);

}  // namespace strata::server
