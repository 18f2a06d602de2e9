#include "server/http_front.h"

#include <utility>

namespace strata::server {
namespace {

constexpr size_t kMaxConnections = 1024;
constexpr int kMaxGenerations = 960;
constexpr size_t kPayloadWhileLoading = size_t{1} << 20;

HttpReply Text(int status, std::string text) {
  return {.status = status, .content_type = "text/plain; charset=utf-8", .body = std::move(text)};
}

HttpReply Loading() { return HttpError(503, "the model is being loaded"); }

}  // namespace

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Start(HttpOptions options,
                                                            const Metrics* metrics) {
  std::unique_ptr<HttpFront> front(new HttpFront(metrics));
  HttpFront* const self = front.get();
  options.max_connections = kMaxConnections;
  options.routes = {
      {"GET", "/healthz", [](const HttpCall&) { return Text(200, "ok\n"); }},
      {"GET", "/readyz", [self](const HttpCall&) { return self->Ready(); }},
      {"GET", "/metrics", [self](const HttpCall&) { return self->Scrape(); }},
      {"GET", "/v1/models",
       [self](const HttpCall&) {
         const OpenAi* api = self->api_;
         return api == nullptr ? Loading() : api->Models();
       }},
      {"GET", "/v1/models/",
       [self](const HttpCall& call) {
         const OpenAi* api = self->api_;
         if (api == nullptr) return Loading();
         return api->Model(std::string(call.path.substr(std::string_view("/v1/models/").size())));
       }},
      {"POST", "/v1/completions",
       [self](const HttpCall& call) {
         OpenAi* api = self->api_;
         return api == nullptr ? Loading() : api->Complete(call);
       }},
  };
  auto server = HttpServer::Start(std::move(options), kPayloadWhileLoading);
  if (!server.ok()) return server.status();
  self->server_ = *std::move(server);
  return front;
}

void HttpFront::Open(const GenerationContext& context, size_t payload_limit) {
  server_->set_payload_limit(payload_limit);
  owned_api_ = std::make_unique<OpenAi>(context, kMaxGenerations);
  engine_ = context.engine;
  api_ = owned_api_.get();
}

HttpReply HttpFront::Ready() const {
  switch (health_.load()) {
    case Health::kServing:
      return Text(200, "ready\n");
    case Health::kLoading:
      return Text(503, "loading\n");
    case Health::kStalled:
      return Text(503, "stalled\n");
    case Health::kFailed:
      return Text(503, "failed\n");
    case Health::kDraining:
      break;
  }
  return Text(503, "draining\n");
}

HttpReply HttpFront::Scrape() const {
  const engine::Engine* engine = engine_;
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8",
          .body = engine == nullptr ? metrics_->Render()
                                    : metrics_->Render(engine->model(), engine->load())};
}

}  // namespace strata::server
