#include "server/server.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/model_source.h"
#include "kvcache/base/errors.h"
#include "server/base/listen_address.h"
#include "server/grpc/call_gate.h"
#include "server/grpc/grpc_credentials.h"
#include "server/http/cors.h"
#include "server/openai/http_gate.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

// Times after the drain: for clients to read the output so far, and for the last bytes to go out.
constexpr milliseconds kLastReads{2000};
constexpr milliseconds kLastBytes{500};

// Interval at which the pump looks for clients that do not read.
milliseconds TickOf(milliseconds write_timeout) {
  return std::clamp(write_timeout / 4, milliseconds(5), milliseconds(1000));
}

// Room for the longest prompt: ten bytes for each token id, or ten bytes of text for each token.
size_t ReceiveLimit(const LimitOptions& limits, const engine::ModelInfo& model) {
  const size_t longest = size_t{10} * static_cast<size_t>(model.max_positions) + (size_t{1} << 20);
  const size_t limit = limits.message_bytes > 0 ? limits.message_bytes : longest;
  return std::min<size_t>(limit, std::numeric_limits<int>::max());
}

// Warns if TLS or keys are missing from a port that other machines can reach.
void WarnOfOpenDoors(const ServeOptions& options) {
  for (const std::string& address : {options.grpc_address, options.http_address}) {
    const auto listen = ListenAddress::Parse(address);
    if (!listen.ok() || listen->IsLoopback()) continue;
    if (options.tls.cert.empty()) {
      spdlog::warn("{}: without TLS whoever is on the way reads prompts, answers and keys",
                   address);
    }
    if (options.api_keys.empty() && options.tls.client_ca.empty()) {
      spdlog::warn("{}: without --api-keys or --tls-client-ca everybody is served", address);
    }
  }
}

// A checkpoint may hold more tensors than its plan needs, if it was trained with less sharing.
void LogUnusedTensors(const engine::ModelInfo& model) {
  const std::vector<std::string>& names = model.unused_tensors;
  if (names.empty()) return;
  spdlog::info("checkpoint: {} tensors are unread under this plan, {:.1f} MB: {}{}", names.size(),
               static_cast<double>(model.unused_bytes) / 1e6, names[0],
               names.size() > 1 ? " ..." : "");
}

GrpcOptions GrpcOptionsOf(const ServeOptions& options, const engine::ModelInfo& model) {
  const LimitOptions& limits = options.limits;
  return {.address = options.grpc_address,
          .max_receive_bytes = ReceiveLimit(limits, model),
          .header_limit = limits.header_bytes,
          .max_streams = limits.streams,
          .memory = limits.grpc_memory,
          .handshake_timeout = limits.handshake_timeout,
          .idle_timeout = limits.idle_timeout,
          .max_age = limits.connection_age};
}

HttpOptions HttpOptionsOf(const ServeOptions& options) {
  const LimitOptions& limits = options.limits;
  HttpOptions http;
  http.address = options.http_address;
  http.write_timeout = options.write_timeout;
  http.idle_timeout = limits.idle_timeout;
  http.request_timeout = limits.request_timeout;
  http.handshake_timeout = limits.handshake_timeout;
  http.max_age = limits.connection_age;
  http.header_limit = limits.header_bytes;
  http.cors = Cors(options.cors_origins);
  return http;
}

}  // namespace

// Opens everything that can fail before a model is loaded.
absl::StatusOr<Server::Parts> Server::OpenFiles(const ServeOptions& options) {
  Parts parts;
  parts.metrics = std::make_unique<Metrics>();
  if (!options.tls.cert.empty()) {
    ASSIGN_OR_RETURN(auto tls, TlsStore::Open(options.tls));
    parts.tls = std::move(tls);
  }
  if (!options.api_keys.empty()) {
    ASSIGN_OR_RETURN(auto keys, ApiKeys::Open(options.api_keys));
    parts.keys = std::move(keys);
  }
  if (!options.access_log.empty()) {
    ASSIGN_OR_RETURN(auto log, AccessLog::Open(options.access_log, parts.metrics.get()));
    parts.access_log = std::move(log);
  }
  if (!options.trace.empty()) {
    ASSIGN_OR_RETURN(auto trace, Trace::Open(options.trace, parts.metrics.get()));
    parts.trace = std::move(trace);
  }
  return parts;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options,
                                                      std::function<void()> on_failure) {
  ASSIGN_OR_RETURN(auto opened, OpenFiles(options));
  Parts parts = std::move(opened);
  WarnOfOpenDoors(options);
  if (!options.http_address.empty()) {
    HttpOptions http_options = HttpOptionsOf(options);
    http_options.tls = parts.tls.get();
    http_options.gate = MakeHttpGate(ContextOf(parts, options, "http"));
    ASSIGN_OR_RETURN(auto http, HttpFront::Start(std::move(http_options), parts.metrics.get()));
    parts.http = std::move(http);
  }
  engine::EngineOptions engine_options = options.engine;
  ASSIGN_OR_RETURN(engine_options.source,
                   engine::OpenModel(options.model_dir, options.engine.shape));
  ASSIGN_OR_RETURN(const auto description, engine_options.source->Tokenizer());
  ASSIGN_OR_RETURN(parts.tokenizer, Tokenizer::Make(description));
  if (!options.served_model_names.empty()) engine_options.name = options.served_model_names[0];
  engine_options.observer = parts.metrics.get();
  if (parts.trace) engine_options.observer = parts.trace.get();
  auto engine = engine::Engine::Create(engine_options);
  if (!engine.ok()) return engine.status();
  const engine::ModelInfo& model = (*engine)->model();
  spdlog::info(
      "model {}: {} parameters, {} on {}; plan takes {} bytes a token, {:.3f} of a plain cache; "
      "cache of {} bytes holds {} tokens",
      model.name, model.parameters, model.dtype, model.device, model.plan.bytes_per_token,
      model.plan.ratio, model.cache_bytes, model.cache_tokens);
  LogUnusedTensors(model);
  parts.engine = *std::move(engine);
  parts.pump = std::make_unique<StreamPump>(TickOf(options.write_timeout));

  GrpcOptions grpc_options = GrpcOptionsOf(options, model);
  std::unique_ptr<Server> server(new Server(std::move(parts), options));
  const Parts& own = server->parts_;
  grpc_options.credentials =
      MakeServerCredentials(own.tls.get(), MakeCallGate(ContextOf(own, options, "grpc")));
  ASSIGN_OR_RETURN(auto grpc, GrpcServer::Start(grpc_options, &server->service_));
  server->grpc_ = std::move(grpc);
  if (own.http) {
    own.http->Open(ContextOf(own, options, "http"), grpc_options.max_receive_bytes,
                   options.served_model_names);
  }
  server->SetHealth(Health::kServing);
  server->watchdog_ = std::make_unique<Watchdog>(
      &server->engine(), options.watchdog,
      [self = server.get(), failed = std::move(on_failure)](Health health) {
        self->SetHealth(health);
        if (health == Health::kFailed && failed) failed();
      });
  return server;
}

Server::Server(Parts parts, const ServeOptions& options)
    : parts_(std::move(parts)), service_(ContextOf(parts_, options, "grpc")) {}

// Ends handlers that wait for the engine before the engine goes.
Server::~Server() {
  watchdog_.reset();
  if (parts_.http) parts_.http->Stop(milliseconds(0));
}

GenerationContext Server::ContextOf(const Parts& parts, const ServeOptions& options,
                                    const char* front) {
  return {.engine = parts.engine.get(),
          .tokenizer = parts.tokenizer.get(),
          .pump = parts.pump.get(),
          .write_timeout = options.write_timeout,
          .front = front,
          .metrics = parts.metrics.get(),
          .access_log = parts.access_log.get(),
          .keys = parts.keys.get(),
          .max_prompt_tokens = options.limits.prompt_tokens};
}

// Tells every front; draining is for good.
void Server::SetHealth(Health health) {
  const MutexLock lock(health_mutex_);
  if (draining_) return;
  draining_ = health == Health::kDraining;
  grpc_->SetServing(health == Health::kServing);
  if (parts_.http) parts_.http->SetHealth(health);
}

void Server::Drain(milliseconds limit) {
  SetHealth(Health::kDraining);
  parts_.engine->Shutdown(limit);
  parts_.pump->WaitIdle(kLastReads);
  if (parts_.http) parts_.http->Stop(kLastBytes);
  grpc_->Shutdown(kLastBytes);
}

}  // namespace strata::server
