#include "server/server.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/shape_tokenizer.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

// After the drain: for readers to take what is made already, and for the last bytes to go out.
constexpr milliseconds kLastReads{2000};
constexpr milliseconds kLastBytes{500};

// How often the pump looks for readers that stand still.
milliseconds TickOf(milliseconds write_timeout) {
  return std::clamp(write_timeout / 4, milliseconds(5), milliseconds(1000));
}

// The longest prompt: ten bytes a token, or ten bytes of text for each.
size_t ReceiveLimit(const engine::ModelInfo& model) {
  const size_t limit = size_t{10} * static_cast<size_t>(model.max_positions) + (size_t{1} << 20);
  return std::min<size_t>(limit, std::numeric_limits<int>::max());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options,
                                                      std::function<void()> on_failure) {
  Parts parts;
  parts.metrics = std::make_unique<Metrics>();
  if (!options.access_log.empty()) {
    auto log = AccessLog::Open(options.access_log, parts.metrics.get());
    if (!log.ok()) return log.status();
    parts.access_log = *std::move(log);
  }
  if (!options.trace.empty()) {
    auto trace = Trace::Open(options.trace, parts.metrics.get());
    if (!trace.ok()) return trace.status();
    parts.trace = *std::move(trace);
  }
  if (!options.http_address.empty()) {
    auto http = HttpFront::Start(options.http_address, options.write_timeout, parts.metrics.get());
    if (!http.ok()) return http.status();
    parts.http = *std::move(http);
  }
  if (options.engine.shape.empty()) {
    auto tokenizer = Tokenizer::Load(options.model_dir);
    if (!tokenizer.ok()) return tokenizer.status();
    parts.tokenizer = *std::move(tokenizer);
  }
  engine::EngineOptions engine_options = options.engine;
  engine_options.model_dir = options.model_dir;
  engine_options.prefix_cache = options.prefix_cache == "on";
  engine_options.pin_threads = options.pin_threads == "on";
  engine_options.batch_invariant = options.batch_invariant == "on";
  engine_options.observer = parts.metrics.get();
  if (parts.trace) engine_options.observer = parts.trace.get();
  auto engine = engine::Engine::Create(engine_options);
  if (!engine.ok()) return engine.status();
  const engine::ModelInfo& model = (*engine)->model();
  if (!parts.tokenizer) {
    auto tokenizer = MakeShapeTokenizer(model.vocab_size);
    if (!tokenizer.ok()) return tokenizer.status();
    parts.tokenizer = *std::move(tokenizer);
  }
  spdlog::info(
      "model {}: {} parameters, {} on {}; plan takes {} bytes a token, {:.3f} of a plain cache; "
      "cache of {} bytes holds {} tokens",
      model.name, model.parameters, model.dtype, model.device, model.plan.bytes_per_token,
      model.plan.ratio, model.cache_bytes, model.cache_tokens);
  parts.engine = *std::move(engine);
  parts.pump = std::make_unique<StreamPump>(TickOf(options.write_timeout));

  std::unique_ptr<Server> server(new Server(std::move(parts), options.write_timeout));
  const size_t receive_limit = ReceiveLimit(model);
  auto grpc = GrpcServer::Start(options.grpc_address, receive_limit, &server->service_);
  if (!grpc.ok()) return grpc.status();
  server->grpc_ = *std::move(grpc);
  if (server->parts_.http) server->parts_.http->Open(server->ContextFor("http"), receive_limit);
  server->SetHealth(Health::kServing);
  server->watchdog_ = std::make_unique<Watchdog>(
      &server->engine(), options.watchdog,
      [self = server.get(), failed = std::move(on_failure)](Health health) {
        self->SetHealth(health);
        if (health == Health::kFailed && failed) failed();
      });
  return server;
}

Server::Server(Parts parts, milliseconds write_timeout)
    : parts_(std::move(parts)), write_timeout_(write_timeout), service_(ContextFor("grpc")) {}

// A handler that waits for the engine is let go before anything that it waits for is.
Server::~Server() {
  watchdog_.reset();
  if (parts_.http) parts_.http->Stop(milliseconds(0));
}

GenerationContext Server::ContextFor(const char* front) const {
  return {.engine = parts_.engine.get(),
          .tokenizer = parts_.tokenizer.get(),
          .pump = parts_.pump.get(),
          .write_timeout = write_timeout_,
          .front = front,
          .metrics = parts_.metrics.get(),
          .access_log = parts_.access_log.get()};
}

// Every front says the same; draining is for good.
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
