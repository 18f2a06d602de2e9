#include "server/http_server.h"

#include <httplib.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReadTimeout{10000};
constexpr milliseconds kLinger{2000};
constexpr size_t kRequestsAConnection = 1'000'000;  // only said to the client, not counted
constexpr size_t kHeaderBytes = size_t{64} << 10;   // all of a request's

bool WaitFor(int socket, short events, milliseconds limit) {
  pollfd wait{.fd = socket, .events = events, .revents = 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, static_cast<int>(limit.count()));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

// Reads what the client is still sending, for a while: closing on it would reset the connection,
// and the client would not see the answer that says what was wrong.
void Linger(int socket) {
  shutdown(socket, SHUT_WR);
  const auto end = std::chrono::steady_clock::now() + kLinger;
  std::array<char, 8192> unread;
  while (std::chrono::steady_clock::now() < end && WaitFor(socket, POLLIN, kLinger) &&
         recv(socket, unread.data(), unread.size(), MSG_DONTWAIT) > 0) {
  }
}

// A connection's bytes as the library reads and writes them.
class SocketStream final : public httplib::Stream {
 public:
  SocketStream(int socket, size_t request_limit, milliseconds write_timeout)
      : socket_(socket), request_limit_(request_limit), write_timeout_(write_timeout) {}

  // A request begins: its bytes are counted from here.
  void BeginRequest() { left_ = request_limit_; }
  bool has_unread() const { return begin_ < end_; }

  bool is_readable() const override {
    return has_unread() || WaitFor(socket_, POLLIN, kReadTimeout);
  }
  bool is_writable() const override {
    return WaitFor(socket_, POLLOUT, write_timeout_) && !WaitFor(socket_, POLLRDHUP, {});
  }
  ssize_t read(char* bytes, size_t size) override {
    if (!has_unread() && !Fill()) return -1;
    const size_t count = std::min({size, end_ - begin_, left_});
    std::memcpy(bytes, buffer_.data() + begin_, count);
    begin_ += count;
    left_ -= count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* bytes, size_t size) override {
    for (;;) {
      const ssize_t sent = send(socket_, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) return sent;
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) return -1;
      if (!WaitFor(socket_, POLLOUT, write_timeout_)) return -1;
    }
  }
  void get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  void get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  socket_t socket() const override { return socket_; }

 private:
  bool Fill() {
    if (!WaitFor(socket_, POLLIN, kReadTimeout)) return false;
    const ssize_t got = recv(socket_, buffer_.data(), buffer_.size(), 0);
    begin_ = 0;
    end_ = static_cast<size_t>(std::max<ssize_t>(got, 0));
    return got > 0;
  }

  const int socket_;
  const size_t request_limit_;
  const milliseconds write_timeout_;
  size_t left_ = 0;  // of request_limit_
  std::array<char, 8192> buffer_;
  size_t begin_ = 0;  // [begin_, end_) of the buffer is unread
  size_t end_ = 0;
};

void Fill(const HttpReply& reply, httplib::Response* response) {
  response->status = reply.status;
  for (const auto& [name, value] : reply.headers) response->set_header(name, value);
  if (!reply.stream) {
    response->set_content(reply.body, reply.content_type);
    return;
  }
  response->set_header("Cache-Control", "no-cache");
  response->set_chunked_content_provider(
      reply.content_type, [stream = reply.stream](size_t /*offset*/, httplib::DataSink& sink) {
        bool alive = true;
        stream([&](std::string_view bytes) {
          alive = alive && sink.write(bytes.data(), bytes.size());
          return alive;
        });
        if (alive) sink.done();
        return alive;
      });
}

// With what the library refuses by itself.
std::string WhatIsWrong(int status, const std::string& path, size_t payload_limit) {
  if (status == 404) return absl::StrCat("nothing at ", path);
  if (status == 413) return absl::StrCat("the body is over ", payload_limit, " bytes");
  return "not a request that HTTP/1.1 allows";
}

// The library's parser, router and writer for one connection: sockets and threads are ours, as the
// library's own pool would let a few open streams keep everybody else waiting.
class Connection final : public httplib::Server {
 public:
  Connection(const HttpOptions& options, size_t payload_limit, int socket) {
    svr_sock_ = socket;  // it writes no stream while this is invalid
    set_payload_max_length(payload_limit);
    set_keep_alive_max_count(kRequestsAConnection);
    set_keep_alive_timeout(options.idle_timeout.count() / 1000);
    AddRoutes(options, socket);
    set_error_handler(HandlerWithResponse([this, payload_limit](const httplib::Request& request,
                                                                httplib::Response& response) {
      if (!response.body.empty()) return HandlerResponse::Unhandled;
      Fill(HttpError(response.status, WhatIsWrong(response.status, request.path, payload_limit)),
           &response);
      lost_ = response.status != 404;
      if (lost_) response.set_header("Connection", "close");
      return HandlerResponse::Handled;
    }));
    set_exception_handler(
        [](const httplib::Request& request, httplib::Response& response, std::exception_ptr) {
          spdlog::error("http: {} threw", request.path);
          Fill(HttpError(500, "internal error"), &response);
        });
  }

  // Reads one request and answers it; whether another may follow.
  bool Exchange(SocketStream* stream, bool last) {
    bool closed = false;
    stream->BeginRequest();
    return process_request(*stream, last, closed, nullptr) && !closed && !last && !lost_;
  }

  bool lost() const { return lost_; }

 private:
  void AddRoutes(const HttpOptions& options, int socket) {
    for (const HttpRoute& route : options.routes) {
      const auto handle = [&route, socket](const httplib::Request& request,
                                           httplib::Response& response) {
        Fill(route.handler({.body = request.body,
                            .path = request.path,
                            .request_id = request.get_header_value("X-Request-Id"),
                            .socket = socket}),
             &response);
      };
      if (route.path.ends_with('/')) {
        AddPrefix(route.path, handle);
      } else if (route.method == "GET") {
        Get(route.path, handle);
      } else {
        Post(route.path, handle);
      }
    }
  }

  // Beside the library's router, which would match a pattern against the path: the standard
  // library's patterns take stack for each character.
  void AddPrefix(const std::string& prefix, Handler handle) {
    set_pre_routing_handler([&prefix, handle = std::move(handle)](const httplib::Request& request,
                                                                  httplib::Response& response) {
      const bool get = request.method == "GET" || request.method == "HEAD";
      if (!get || !request.path.starts_with(prefix)) return HandlerResponse::Unhandled;
      handle(request, response);
      return HandlerResponse::Handled;
    });
  }

  bool lost_ = false;  // where in the connection's bytes the next request begins is unknown
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options,
                                                              size_t payload_limit) {
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(options), payload_limit));
  HttpServer* const self = server.get();
  auto listener = HttpListener::Listen(
      self->options_.address, self->options_.max_connections,
      [self](HttpListener::Connection* connection) { self->ServeConnection(connection); });
  if (!listener.ok()) return listener.status();
  self->listener_ = *std::move(listener);
  return server;
}

void HttpServer::ServeConnection(HttpListener::Connection* connection) {
  const size_t payload_limit = payload_limit_;
  SocketStream stream(connection->socket(), payload_limit + kHeaderBytes, options_.write_timeout);
  Connection http(options_, payload_limit, connection->socket());
  while (stream.has_unread() || connection->WaitForRequest(options_.idle_timeout)) {
    if (!http.Exchange(&stream, connection->stopping())) break;
  }
  if (http.lost()) Linger(connection->socket());
}

}  // namespace strata::server
