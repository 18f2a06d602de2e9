#include "server/server.h"

#include <algorithm>
#include <limits>
#include <utility>

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

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServeOptions& options) {
  engine::EngineOptions engine_options = options.engine;
  engine_options.model_dir = options.model_dir;
  auto tokenizer = Tokenizer::Load(options.model_dir);
  if (!tokenizer.ok()) return tokenizer.status();
  auto engine = engine::Engine::Create(engine_options);
  if (!engine.ok()) return engine.status();
  const engine::ModelInfo& model = (*engine)->model();
  spdlog::info(
      "model {}: {} parameters, {} on {}; plan takes {} bytes a token, {:.3f} of a plain cache; "
      "cache of {} bytes holds {} tokens",
      model.name, model.parameters, model.dtype, model.device, model.plan.bytes_per_token,
      model.plan.ratio, model.cache_bytes, model.cache_tokens);
  std::unique_ptr<Server> server(
      new Server(*std::move(engine), *std::move(tokenizer), options.write_timeout));
  auto front = GrpcServer::Start(options.grpc_address, ReceiveLimit(model), &server->service_);
  if (!front.ok()) return front.status();
  server->front_ = *std::move(front);
  return server;
}

Server::Server(std::unique_ptr<engine::Engine> engine, std::unique_ptr<Tokenizer> tokenizer,
               milliseconds write_timeout)
    : engine_(std::move(engine)),
      tokenizer_(std::move(tokenizer)),
      pump_(TickOf(write_timeout)),
      service_({.engine = engine_.get(),
                .tokenizer = tokenizer_.get(),
                .pump = &pump_,
                .write_timeout = write_timeout}) {}

void Server::Drain(milliseconds limit) {
  front_->SetNotServing();
  engine_->Shutdown(limit);
  pump_.WaitIdle(kLastReads);
  front_->Shutdown(kLastBytes);
}

}  // namespace strata::server
