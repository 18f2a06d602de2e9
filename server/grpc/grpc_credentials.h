#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/security/server_credentials.h"
#include "server/security/tls.h"

namespace strata::server {

// Whether a call may be made: `path` is /package.Service/Method, `authorization` the metadata of
// that name, empty if there is none. Called on gRPC's threads as soon as a call's headers have
// arrived, before any of its messages is read; must not block.
using CallGate = std::function<absl::Status(std::string_view path, std::string_view authorization)>;

// Credentials of a port: TLS by the store's identity at the time of each handshake, none if `tls`
// is null; and a gate for every call, unless empty. `tls`, the objects that the gate uses and the
// credentials themselves outlive the server.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsStore* tls, CallGate gate);

}  // namespace strata::server
