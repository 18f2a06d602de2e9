#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "server/base/accept_loop.h"

namespace strata::server {

struct GrpcOptions {
  std::string address;  // HOST:PORT; port 0 picks a free one
  std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials();
  size_t max_receive_bytes = size_t{1} << 20;  // of a message
  size_t header_limit = size_t{16} << 10;      // of a call's metadata
  int32_t max_streams = 1024;                  // calls at a time of one connection
  size_t memory = size_t{1} << 30;             // for connections, and messages on their way
  std::chrono::milliseconds handshake_timeout{10000};
  std::chrono::milliseconds idle_timeout{};  // of a connection without a call; 0: none
  std::chrono::milliseconds max_age{};       // an older connection takes no more calls; 0: never
};

// A listening gRPC server: one service, health and reflection. SERVING from Start on.
// Connections are accepted here and handed to gRPC, whose own listener stays deaf after file
// descriptors have run out. Connections may take three quarters of the descriptors; more are
// closed.
// Compressed messages are refused: their unpacked size is known too late.
class GrpcServer {
 public:
  // `service` must outlive the server. UNAVAILABLE, one line with the system's reason, if the
  // address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcOptions& options,
                                                           grpc::Service* service);
  ~GrpcServer();  // Shutdown() with no patience

  // HOST:PORT with the port in use.
  const std::string& address() const { return loop_->address(); }

  // Sets the answer of health checks from now on; calls are taken either way.
  void SetServing(bool serving);

  // Takes no more calls, and cancels those still open after `limit`. Returns when all are done.
  void Shutdown(std::chrono::milliseconds limit);

 private:
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;
  GrpcServer(std::shared_ptr<grpc::ServerCredentials> credentials,
             std::unique_ptr<Acceptor> acceptor, std::unique_ptr<grpc::Server> server);
  void Take(int socket);

  const std::shared_ptr<grpc::ServerCredentials> credentials_;  // outlive the server
  const std::unique_ptr<Acceptor> acceptor_;
  const std::unique_ptr<grpc::Server> server_;
  const int max_descriptor_;
  std::chrono::steady_clock::time_point next_warning_;  // of the loop's thread
  std::unique_ptr<AcceptLoop> loop_;                    // constant after Start; gone first
};

// Sends the log lines of gRPC and of protobuf to spdlog at debug level. Protobuf writes a line for
// each string of a message that is not UTF-8. Call before anything else of gRPC.
void RouteLibraryLogs();

}  // namespace strata::server
