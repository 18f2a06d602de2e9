#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"

namespace strata::server {

// A listening gRPC server: one service, health and reflection. SERVING from Start on.
class GrpcServer {
 public:
  // `address` is HOST:PORT; port 0 picks a free one. `service` must outlive the server.
  // UNAVAILABLE, one line with the system's reason, where the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const std::string& address,
                                                           size_t max_receive_bytes,
                                                           grpc::Service* service);
  ~GrpcServer();  // Shutdown() with no patience

  // HOST:PORT with the port in use.
  const std::string& address() const { return address_; }

  // What health checks answer from now on; calls are taken either way.
  void SetServing(bool serving);

  // Takes no more calls, and cancels those still open after `limit`. Returns when all are done.
  void Shutdown(std::chrono::milliseconds limit);

 private:
  GrpcServer(std::unique_ptr<grpc::Server> server, std::string address);

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
};

// Sends the log lines of gRPC and of protobuf, which writes one for each string of a message that
// is not UTF-8, to spdlog at debug level. Call before anything else of gRPC.
void RouteLibraryLogs();

}  // namespace strata::server
