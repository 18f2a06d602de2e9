#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http_listener.h"
#include "server/http_message.h"

namespace strata::server {

struct HttpRoute {
  std::string method;  // "GET" (then also HEAD) or "POST"
  std::string path;    // all of it; one that ends in a slash stands for all below it, with GET
  HttpHandler handler;
};

struct HttpOptions {
  std::string address;  // HOST:PORT; port 0 picks a free one
  std::chrono::milliseconds write_timeout{60000};
  size_t max_connections = 1024;
  std::chrono::milliseconds idle_timeout{75000};  // of a connection between requests
  std::vector<HttpRoute> routes;
};

// HTTP/1.1 with keep-alive over HttpListener: one thread a connection, so that a handler may block.
// A request whose bytes stop coming for 10 s is given up; what fits no route is answered with 404,
// in OpenAI's form like every error.
class HttpServer {
 public:
  // Listens and answers from here on. UNAVAILABLE as HttpListener::Listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpOptions options,
                                                           size_t payload_limit);

  // Bytes of a request's body; more is answered with 413. For connections that are made from now
  // on.
  void set_payload_limit(size_t bytes) { payload_limit_ = bytes; }

  const std::string& address() const { return listener_->address(); }

  // As HttpListener::Stop. A handler that waits for more than its client must have been told
  // before.
  void Stop(std::chrono::milliseconds limit) { listener_->Stop(limit); }

 private:
  HttpServer(HttpOptions options, size_t payload_limit)
      : options_(std::move(options)), payload_limit_(payload_limit) {}
  void ServeConnection(HttpListener::Connection* connection);

  const HttpOptions options_;
  std::atomic<size_t> payload_limit_;
  std::unique_ptr<HttpListener> listener_;  // last: its threads use the rest
};

}  // namespace strata::server
