#include "server/http_front.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/base/version.h"
#include "server/openai/openai.h"
#include "server/openai/openai_tokenize.h"

namespace strata::server {
namespace {

constexpr size_t kMaxConnections = 1024;
constexpr int kMaxGenerations = 960;
constexpr size_t kPayloadWhileLoading = size_t{1} << 20;

HttpReply Text(int status, std::string text) {
  return {.status = status, .content_type = "text/plain; charset=utf-8", .body = std::move(text)};
}

constexpr std::string_view kModels = "/v1/models/";

}  // namespace

struct HttpFront::Api {
  Api(const GenerationContext& context, std::vector<std::string> names)
      : openai(context, kMaxGenerations, std::move(names)), tokenize(context, &openai.models()) {}

  OpenAi openai;
  OpenAiTokenize tokenize;
};

HttpFront::HttpFront(const Metrics* metrics) : metrics_(metrics) {}
HttpFront::~HttpFront() = default;

absl::StatusOr<std::unique_ptr<HttpFront>> HttpFront::Start(HttpOptions options,
                                                            const Metrics* metrics) {
  std::unique_ptr<HttpFront> front(new HttpFront(metrics));
  options.max_connections = kMaxConnections;
  options.routes = front->Routes();
  ASSIGN_OR_RETURN(auto server, HttpServer::Start(std::move(options), kPayloadWhileLoading));
  front->server_ = std::move(server);
  return front;
}

std::vector<HttpRoute> HttpFront::Routes() {
  const HttpHandler ready = [this](const HttpCall&) { return Ready(); };
  return {
      {"GET", "/healthz", [](const HttpCall&) { return Text(200, "ok\n"); }},
      {"GET", "/readyz", ready},
      {"GET", "/health", ready},
      {"GET", "/ping", ready},
      {"POST", "/ping", ready},
      {"GET", "/version",
       [](const HttpCall&) {
         return HttpReply{.body = absl::StrCat(R"({"version":")", Version(), "\"}")};
       }},
      {"GET", "/metrics", [this](const HttpCall&) { return Scrape(); }},
      ApiRoute("GET", "/v1/models",
               [](Api& api, const HttpCall&) { return api.openai.models().List(); }),
      ApiRoute("GET", kModels.data(),
               [](Api& api, const HttpCall& call) {
                 return api.openai.models().Get(std::string(call.path.substr(kModels.size())));
               }),
      ApiRoute("POST", "/v1/completions",
               [](Api& api, const HttpCall& call) { return api.openai.Complete(call); }),
      ApiRoute("POST", "/tokenize",
               [](Api& api, const HttpCall& call) { return api.tokenize.Tokenize(call); }),
      ApiRoute("POST", "/detokenize",
               [](Api& api, const HttpCall& call) { return api.tokenize.Detokenize(call); }),
      ApiRoute("GET", "/tokenizer_info",
               [](Api& api, const HttpCall&) { return api.tokenize.Info(); }),
  };
}

HttpRoute HttpFront::ApiRoute(const char* method, const char* path,
                              HttpReply (*answer)(Api& api, const HttpCall& call)) {
  return {method, path, [this, answer](const HttpCall& call) {
            Api* const api = api_;
            if (api == nullptr) return HttpError(503, "the model is being loaded");
            return answer(*api, call);
          }};
}

void HttpFront::Open(const GenerationContext& context, size_t payload_limit,
                     std::vector<std::string> names) {
  server_->set_payload_limit(payload_limit);
  owned_api_ = std::make_unique<Api>(context, std::move(names));
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
