#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "engine/serve/engine.h"
#include "server/generation/stream_pump.h"
#include "server/grpc/grpc_server.h"
#include "server/grpc/grpc_service.h"
#include "server/http_front.h"
#include "server/security/api_keys.h"
#include "server/security/tls.h"
#include "server/serve_options.h"
#include "server/telemetry/access_log.h"
#include "server/telemetry/health.h"
#include "server/telemetry/metrics.h"
#include "server/telemetry/trace.h"
#include "server/telemetry/watchdog.h"
#include "server/text/tokenizer.h"

namespace strata::server {

// A model being served: engine, tokenizer, pump and the fronts, in order of dependence.
class Server {
 public:
  // Listens for HTTP, if asked to, loads the model, then listens for gRPC. Errors are one line.
  // `on_failure` is called once, on another thread, when the device has failed (engine().failure()
  // is the error): nothing is served any more.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServeOptions& options,
                                                       std::function<void()> on_failure = {});
  ~Server();

  const engine::Engine& engine() const { return *parts_.engine; }
  // HOST:PORT with the port in use; HTTP's is empty if it is not served.
  const std::string& address() const { return grpc_->address(); }
  std::string http_address() const { return parts_.http ? parts_.http->address() : ""; }

  // Health answers NOT_SERVING, new requests get UNAVAILABLE, running ones have `limit` to finish
  // and are then ended with UNAVAILABLE; then the ports are closed.
  void Drain(std::chrono::milliseconds limit);

 private:
  // In order of dependence: each part may use the parts above it.
  struct Parts {
    std::unique_ptr<TlsStore> tls;  // may be null
    std::unique_ptr<Metrics> metrics;
    std::unique_ptr<AccessLog> access_log;  // may be null
    std::unique_ptr<Trace> trace;           // may be null
    std::unique_ptr<ApiKeys> keys;          // may be null
    std::unique_ptr<engine::Engine> engine;
    std::unique_ptr<Tokenizer> tokenizer;
    std::unique_ptr<StreamPump> pump;
    std::unique_ptr<HttpFront> http;  // may be null
  };
  Server(Parts parts, const ServeOptions& options);
  static absl::StatusOr<Parts> OpenFiles(const ServeOptions& options);
  static GenerationContext ContextOf(const Parts& parts, const ServeOptions& options,
                                     const char* front);
  void SetHealth(Health health);

  const Parts parts_;
  GrpcService service_;
  std::unique_ptr<GrpcServer> grpc_;  // constant after Start
  Mutex health_mutex_;
  bool draining_ STRATA_GUARDED_BY(health_mutex_) = false;
  std::unique_ptr<Watchdog> watchdog_;  // constant after Start; gone first
};

}  // namespace strata::server
