#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/generation/generation.h"
#include "server/http/http_server.h"
#include "server/telemetry/health.h"
#include "server/telemetry/metrics.h"

namespace strata::server {

// All paths served over HTTP:
//
//   GET  /healthz          200 as long as the process lives
//   GET  /readyz, /health  200 when it serves, otherwise 503 with the reason in a word
//   GET, POST /ping        as /readyz
//   GET  /version          {"version": "0.1.0"}
//   GET  /metrics          Prometheus
//   GET  /v1/models        OpenAI's API; 503 until the model is loaded, like the paths below
//   GET  /v1/models/NAME
//   POST /v1/completions
//   POST /tokenize         vLLM's
//   POST /detokenize
//   GET  /tokenizer_info
//
// 64 of the 1,024 connections cannot generate, so that other requests are answered beside any
// number of streams. A completion over the limit of generations gets 429, a connection over the
// limit of connections 503.
//
// Threads: every method may be called from any thread.
class HttpFront {
 public:
  // Listens from now on, while the model is still to be loaded. The front sets the routes and the
  // number of connections of `options` itself. `metrics` must outlive the front. UNAVAILABLE, one
  // line with the system's reason, if the address cannot be listened on.
  static absl::StatusOr<std::unique_ptr<HttpFront>> Start(HttpOptions options,
                                                          const Metrics* metrics);
  ~HttpFront();

  // Call once, when the model is loaded: opens the API, adds the gauges to the metrics. The objects
  // that `context` points to must outlive the front. `names` as OpenAi's.
  void Open(const GenerationContext& context, size_t payload_limit, std::vector<std::string> names);
  void SetHealth(Health health) { health_ = health; }

  // HOST:PORT with the port in use.
  const std::string& address() const { return server_->address(); }

  // Takes no more requests, and cuts open ones after `limit`. Returns when all are done.
  void Stop(std::chrono::milliseconds limit) { server_->Stop(limit); }

 private:
  struct Api;
  explicit HttpFront(const Metrics* metrics);
  std::vector<HttpRoute> Routes();
  // A route that is answered once the model is loaded.
  HttpRoute ApiRoute(const char* method, const char* path,
                     HttpReply (*answer)(Api& api, const HttpCall& call));
  HttpReply Ready() const;
  HttpReply Scrape() const;

  const Metrics* const metrics_;
  std::atomic<Health> health_ = Health::kLoading;
  std::unique_ptr<Api> owned_api_;
  std::atomic<Api*> api_ = nullptr;  // set with Open
  std::atomic<const engine::Engine*> engine_ = nullptr;
  std::unique_ptr<HttpServer> server_;  // last: its threads use the rest
};

}  // namespace strata::server
