#include "server/http/http_server.h"

#include <httplib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvcache/base/errors.h"
#include "server/http/cors.h"
#include "server/http/http_head.h"
#include "server/http/http_socket.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kReadTimeout{10000};
constexpr size_t kRequestsAConnection = 1'000'000;  // only announced to the client, not counted
constexpr size_t kFraming = size_t{64} << 10;       // of a body that comes in chunks

constexpr char kRequestId[] = "x-request-id";

// Answer to a connection over the limit, if bytes can be sent without a handshake. Its
// request is not read.
std::string Full() {
  return absl::StrCat(
      "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n", kRequestId,
      ": ", DrawRequestId(), "\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n",
      R"({"error":{"message":"too many connections","type":"server_error","param":null,"code":"overloaded"}})");
}

// A connection's bytes as the library reads and writes them, within a request's limits: bytes of
// headers, then bytes of a body, all by a deadline.
class SocketStream final : public httplib::Stream {
 public:
  SocketStream(HttpSocket* socket, const HttpOptions* options)
      : socket_(socket), options_(options) {}

  // Begins a request with its headers; then begins its body.
  void BeginRequest() {
    head_ = HttpHead();
    in_head_ = true;
    line_.clear();
    given_ = 0;
    left_ = options_->header_limit;
    deadline_ = HttpSocket::Time::clock::now() + options_->request_timeout;
  }
  void BeginBody(size_t limit) {
    in_head_ = false;
    left_ = limit;
  }
  bool in_head() const { return in_head_; }
  const HttpHead& head() const { return head_; }
  // Whether the current part of the request has reached its limit.
  bool exhausted() const { return left_ == 0; }

  bool is_readable() const override { return true; }  // a read waits
  bool is_writable() const override { return socket_->IsWritable(options_->write_timeout); }
  ssize_t read(char* bytes, size_t size) override {
    if (!in_head_) return Receive(bytes, size);
    if (given_ == line_.size()) {
      if (const ssize_t result = ReceiveLine(); result <= 0) return result;
    }
    const size_t count = line_.copy(bytes, size, given_);
    given_ += count;
    return static_cast<ssize_t>(count);
  }
  ssize_t write(const char* bytes, size_t size) override {
    return socket_->Write(bytes, size, options_->write_timeout);
  }
  void get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  void get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  socket_t socket() const override { return socket_->socket(); }

 private:
  // As read(): 0 if the request may go no further.
  ssize_t Receive(char* bytes, size_t size) {
    if (left_ == 0) return 0;
    const HttpSocket::Time patience = HttpSocket::Time::clock::now() + kReadTimeout;
    const size_t count = socket_->Read(bytes, std::min(size, left_), std::min(deadline_, patience));
    left_ -= count;
    return count > 0 ? static_cast<ssize_t>(count) : -1;
  }

  // Reads the next line of the head that the library may see; without its end if the head is too
  // long.
  ssize_t ReceiveLine() {
    do {
      line_.clear();
      given_ = 0;
      while (!line_.ends_with('\n')) {
        char byte = 0;
        const ssize_t result = Receive(&byte, 1);
        if (result == 0 && !line_.empty()) return 1;
        if (result <= 0) return result;
        line_ += byte;
      }
    } while (!head_.Add(line_));
    return 1;
  }

  HttpSocket* const socket_;
  const HttpOptions* const options_;
  HttpHead head_;
  bool in_head_ = true;
  std::string line_;  // of the head; [given_, size) is unread
  size_t given_ = 0;
  size_t left_ = 0;
  HttpSocket::Time deadline_;
};

void Fill(const HttpReply& reply, httplib::Response* response) {
  response->status = reply.status;
  for (const auto& [name, value] : reply.headers) response->set_header(name, value);
  if (reply.status == 204) return;  // has no body
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

// The library's parser, router and writer for one connection. Sockets and threads are ours: with
// the library's own pool a few open streams would keep all others waiting.
class Connection final : public httplib::Server {
 public:
  Connection(const HttpOptions& options, const HttpRoutes& routes, size_t payload_limit,
             SocketStream* stream, HttpListener::Connection* place)
      : options_(options),
        routes_(routes),
        payload_limit_(payload_limit),
        stream_(stream),
        place_(place) {
    svr_sock_ = stream->socket();  // it writes no stream while this is invalid
    set_payload_max_length(payload_limit);
    set_keep_alive_max_count(kRequestsAConnection);
    if (options.idle_timeout.count() > 0) {
      set_keep_alive_timeout(options.idle_timeout.count() / 1000);
    }
    for (const HttpRoute& route : routes.all()) {
      if (route.method != "POST") continue;
      Post(route.path,
           [this, &route](const httplib::Request& request, httplib::Response& response) {
             Answer(route, request, &response);
           });
    }
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      stream_->BeginBody(payload_limit_ + kFraming);
      if (request.method == "HEAD") response.set_header("Accept-Ranges", "none");  // else "bytes"
      if (!ReadsBody(request)) Lose();
      return AnswerUnread(request, &response) ? HandlerResponse::Handled
                                              : HandlerResponse::Unhandled;
    });
    set_post_routing_handler(
        [this](const httplib::Request&, httplib::Response& response) { Complete(&response); });
    set_error_handler(
        HandlerWithResponse([this](const httplib::Request& request, httplib::Response& response) {
          if (!response.body.empty()) return HandlerResponse::Unhandled;
          if (stream_->exhausted()) {
            if (stream_->in_head()) {
              response.status = 431;
            } else if (response.status == 400) {  // of chunks, whose size was not announced
              response.status = 413;
            }
          }
          Fill(HttpError(response.status, WhatIsWrong(response.status, request)), &response);
          if (response.status != 404) Lose();
          return HandlerResponse::Handled;
        }));
    set_exception_handler([](const httplib::Request& request, httplib::Response& response,
                             std::exception_ptr) {
      spdlog::error("http: {} threw", absl::CEscape(request.path));  // its bytes are the client's
      Fill(HttpError(500, "internal error"), &response);
    });
  }

  // Reads one request and answers it; returns whether another may follow.
  bool Exchange(bool last) {
    bool closed = false;
    stream_->BeginRequest();
    request_id_.clear();
    const auto complete = [this](httplib::Request& request) {
      request.path = routes_.Canonical(request.path);
      const HttpHead& head = stream_->head();
      if (head.has_length() || head.chunked()) return;
      request.set_header("Content-Length", "0");  // otherwise the library waits for a body
    };
    return process_request(*stream_, last, closed, complete) && !closed && !last && !lost_;
  }

  bool lost() const { return lost_; }

 private:
  void Answer(const HttpRoute& route, const httplib::Request& request,
              httplib::Response* response) {
    if (request.body.size() > payload_limit_) {  // it came in chunks
      return Fill(HttpError(413, WhatIsWrong(413, request)), response);
    }
    if (!place_->BeginAnswer()) return Lose();  // the place is taken: nobody reads the answer
    Fill(route.handler(CallOf(request)), response);
  }

  HttpCall CallOf(const httplib::Request& request) {
    return {.body = request.body,
            .path = request.path,
            .request_id = RequestId(),
            .authorization = request.get_header_value("Authorization"),
            .socket = stream_->socket()};
  }

  // The client's id, or a drawn one if it gave none.
  const std::string& RequestId() {
    if (request_id_.empty()) request_id_ = stream_->head().request_id();
    if (request_id_.empty()) request_id_ = DrawRequestId();
    return request_id_;
  }

  // Adds the headers of every answer.
  void Complete(httplib::Response* response) {
    response->set_header(kRequestId, RequestId());
    for (const auto& [name, value] : options_.cors.ForAnswer(stream_->head().origin())) {
      response->set_header(name, value);
    }
    if (response->status == 204) response->headers.erase("Content-Length");
    if (!lost_) return;
    for (const char* name : {"Connection", "Keep-Alive"}) response->headers.erase(name);
    response->set_header("Connection", "close");  // once, even if the client asked for it too
  }

  // Whether the library would read the request to its end. It leaves a GET's body unread; in a body
  // of chunks it loses the bytes in place of a chunk's line end.
  bool ReadsBody(const httplib::Request& request) const {
    const HttpHead& head = stream_->head();
    return !head.has_body() || (!head.chunked() && request.method == "POST");
  }

  // Answers requests that need no body, or whose body must not be read; false for all others. A GET
  // is answered here too: the library's router would match a pattern against the path, and the
  // standard library's patterns take stack for each character.
  bool AnswerUnread(const httplib::Request& request, httplib::Response* response) {
    const HttpHead& head = stream_->head();
    if (const std::optional<HttpReply> reply = ReplyUnread(request)) {
      Fill(*reply, response);
      if (head.has_body() || !head.error().empty()) Lose();
      return true;
    }
    const HttpRoute* const route = routes_.Find(request.method, request.path);
    if (route == nullptr || route->method != "GET") return false;
    Answer(*route, request, response);
    return true;
  }

  // Refuses a request with an ambiguous end, a caller without a valid key, a method that the path
  // does not have, and a body that would be unpacked to any size. A browser's preflight comes
  // without a key, so it is answered first.
  std::optional<HttpReply> ReplyUnread(const httplib::Request& request) {
    const HttpHead& head = stream_->head();
    if (!head.error().empty()) return HttpError(400, head.error());
    if (request.method == "OPTIONS" && options_.cors.enabled() && !head.origin().empty() &&
        !head.requested_method().empty()) {
      return HttpReply{
          .status = 204,
          .headers = options_.cors.ForPreflight(head.origin(), head.requested_headers())};
    }
    std::optional<HttpReply> refusal;
    if (options_.gate) refusal = options_.gate(CallOf(request));
    if (!refusal) refusal = CheckMethod(request);
    if (!refusal && request.has_header("Content-Encoding")) {
      refusal = HttpError(415, "a body is taken as it is, without Content-Encoding");
    }
    return refusal;
  }

  std::optional<HttpReply> CheckMethod(const httplib::Request& request) const {
    std::string methods = routes_.MethodsOf(request.path);
    if (methods.empty() || routes_.Find(request.method, request.path) != nullptr) {
      return std::nullopt;
    }
    if (options_.cors.enabled()) methods += ", OPTIONS";
    HttpReply reply{.status = 204};
    if (!options_.cors.enabled() || request.method != "OPTIONS") {
      reply = HttpError(405,
                        absl::StrCat("method: ", request.method, " is not one of ", methods,
                                     ", which ", request.path, " has"),
                        "method", "method_not_supported");
    }
    reply.headers.emplace_back("Allow", std::move(methods));
    return reply;
  }

  // The message, also for errors that the library finds by itself.
  std::string WhatIsWrong(int status, const httplib::Request& request) const {
    if (status == 404) return absl::StrCat("nothing at ", request.path);
    if (status == 413) {
      if (stream_->head().chunked() && request.body.size() <= payload_limit_) {
        return absl::StrCat("what stands between the body's chunks is over ", kFraming, " bytes");
      }
      return absl::StrCat("the body is over ", payload_limit_, " bytes");
    }
    if (status == 414) {
      return absl::StrCat("the request line is over ", CPPHTTPLIB_REQUEST_URI_MAX_LENGTH, " bytes");
    }
    if (status == 431) {
      return absl::StrCat("the headers are over ", options_.header_limit, " bytes");
    }
    return "not a request that HTTP/1.1 allows";
  }

  void Lose() { lost_ = true; }

  const HttpOptions& options_;
  const HttpRoutes& routes_;
  const size_t payload_limit_;
  SocketStream* const stream_;
  HttpListener::Connection* const place_;
  std::string request_id_;  // of this exchange; empty: not asked for yet
  bool lost_ = false;       // the start of the next request in the connection's bytes is unknown
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options,
                                                              size_t payload_limit) {
  std::unique_ptr<HttpServer> server(new HttpServer(std::move(options), payload_limit));
  HttpServer* const self = server.get();
  ASSIGN_OR_RETURN(auto listener,
                   HttpListener::Listen(
                       self->options_.address, self->options_.max_connections,
                       self->options_.tls == nullptr ? Full : std::function<std::string()>(),
                       [self](HttpListener::Connection* place) { self->ServeConnection(place); }));
  self->listener_ = std::move(listener);
  return server;
}

void HttpServer::ServeConnection(HttpListener::Connection* place) {
  using Clock = HttpSocket::Time::clock;
  const HttpSocket::Time born = Clock::now();
  HttpSocket socket(place->socket(), options_.tls == nullptr ? nullptr : options_.tls->current());
  SocketStream stream(&socket, &options_);
  Connection http(options_, routes_, payload_limit_, &stream, place);
  if (!place->WaitForRequest(options_.idle_timeout)) return;
  if (!socket.Handshake(Clock::now() + options_.handshake_timeout)) return;
  while (socket.has_unread() ? place->BeginRequest()
                             : place->WaitForRequest(options_.idle_timeout)) {
    const bool old = options_.max_age.count() > 0 && Clock::now() - born >= options_.max_age;
    if (!http.Exchange(/*last=*/old || place->stopping())) break;
  }
  if (http.lost()) socket.Linger();
}

}  // namespace strata::server
