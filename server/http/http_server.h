#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/http/cors.h"
#include "server/http/http_listener.h"
#include "server/http/http_message.h"
#include "server/http/http_routes.h"
#include "server/security/tls.h"

namespace strata::server {

// Called when a request's headers have arrived, before its body is read; `call.body` is empty.
// Returns the answer that refuses the request, or nullopt.
using HttpGate = std::function<std::optional<HttpReply>(const HttpCall& call)>;

struct HttpOptions {
  std::string address;  // HOST:PORT; port 0 picks a free one
  std::chrono::milliseconds write_timeout{60000};
  size_t max_connections = 1024;
  std::chrono::milliseconds idle_timeout{75000};     // of a connection between requests; 0: none
  std::chrono::milliseconds request_timeout{30000};  // until a whole request has arrived
  std::chrono::milliseconds handshake_timeout{10000};
  std::chrono::milliseconds max_age{};     // an older connection ends after its answer; 0: never
  size_t header_limit = size_t{16} << 10;  // bytes of a request line and all headers
  const TlsStore* tls = nullptr;           // null: without TLS; outlives the server
  HttpGate gate;                           // empty: every request is served
  Cors cors;
  std::vector<HttpRoute> routes;
};

// HTTP/1.1 with keep-alive over HttpListener: one thread for each connection, so that a handler may
// block. A request whose bytes stop coming for 10 s is given up. An unknown path is answered with
// 404, a method that a path does not have with 405, in OpenAI's form like every error. Every answer
// has the header x-request-id: the client's own, or a drawn one. A compressed body is refused: its
// unpacked size is known too late. The body is read for any Content-Type; Range is ignored.
class HttpServer {
 public:
  // Listens and answers from now on. UNAVAILABLE as HttpListener::Listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(HttpOptions options,
                                                           size_t payload_limit);

  // Limit on the bytes of a request's body; more is answered with 413, and so is a body in chunks
  // with more than 64 KiB of framing. For connections made from now on.
  void set_payload_limit(size_t bytes) { payload_limit_ = bytes; }

  const std::string& address() const { return listener_->address(); }

  // As HttpListener::Stop. A handler that waits for anything but its client must be told to end
  // before.
  void Stop(std::chrono::milliseconds limit) { listener_->Stop(limit); }

 private:
  HttpServer(HttpOptions options, size_t payload_limit)
      : options_(std::move(options)), routes_(options_.routes), payload_limit_(payload_limit) {}
  void ServeConnection(HttpListener::Connection* place);

  const HttpOptions options_;
  const HttpRoutes routes_;
  std::atomic<size_t> payload_limit_;
  std::unique_ptr<HttpListener> listener_;  // last: its threads use the rest
};

}  // namespace strata::server
