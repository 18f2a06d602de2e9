#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "server/grpc_server.h"
#include "server/grpc_service.h"
#include "server/options.h"
#include "server/stream_pump.h"
#include "server/tokenizer.h"

namespace strata::server {

// A model being served: engine, tokenizer, pump and the gRPC front, in order of dependence.
class Server {
 public:
  // Loads the model, then listens. One line naming what is wrong otherwise.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServeOptions& options);

  const engine::Engine& engine() const { return *engine_; }
  // HOST:PORT with the port in use.
  const std::string& address() const { return front_->address(); }

  // Health answers NOT_SERVING, new requests get UNAVAILABLE, those running have `limit` to finish
  // and the rest end with UNAVAILABLE; then the port is closed.
  void Drain(std::chrono::milliseconds limit);

 private:
  Server(std::unique_ptr<engine::Engine> engine, std::unique_ptr<Tokenizer> tokenizer,
         std::chrono::milliseconds write_timeout);

  const std::unique_ptr<engine::Engine> engine_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  StreamPump pump_;
  GrpcService service_;
  std::unique_ptr<GrpcServer> front_;  // constant after Start; gone first
};

}  // namespace strata::server
