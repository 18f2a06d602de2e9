#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "server/http/http_server.h"
#include "tests/server/http_client.h"

namespace strata::testing {

// A server with a path of each kind. Each answer names the route that gave it, and the path.
class HttpPathsServer : public ::testing::Test {
 protected:
  void Serve(server::HttpOptions options = {}) {
    options.address = "127.0.0.1:0";
    options.idle_timeout = std::chrono::seconds(5);  // tests that wait for the end fail soon
    const auto route = [](const char* method, const char* path) {
      return server::HttpRoute{
          method, path, [name = std::string(method) + " " + path](const server::HttpCall& call) {
            return server::HttpReply{.body = name + " got " + std::string(call.path) + " " +
                                             call.request_id};
          }};
    };
    options.routes = {route("GET", "/get"),   route("POST", "/post"), route("GET", "/both"),
                      route("POST", "/both"), route("GET", "/below"), route("GET", "/below/")};
    options.routes.push_back({"GET", "/stream", [](const server::HttpCall&) {
                                server::HttpReply reply{.content_type = "text/event-stream"};
                                reply.stream = [](const auto& write) { write("data: x\n\n"); };
                                return reply;
                              }});
    auto server = server::HttpServer::Start(std::move(options), /*payload_limit=*/1000);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // The answer to one request, to the end of the connection. `headers` are whole lines.
  std::string Ask(const std::string& method, const std::string& path,
                  const std::string& headers = "") {
    HttpClient client(server_->address());
    client.Send(method + " " + path + " HTTP/1.1\r\n" + headers + "Connection: close\r\n\r\n");
    return client.Read("never");
  }

  std::unique_ptr<server::HttpServer> server_;
};

inline bool IsStatus(const std::string& answer, int status) {
  return answer.starts_with("HTTP/1.1 " + std::to_string(status) + " ");
}

// The value of a header; "absent" if the answer has none, "several" if it has more than one.
inline std::string HeaderOf(const std::string& answer, const std::string& name) {
  const std::string head = answer.substr(0, answer.find("\r\n\r\n") + 2);
  const std::string begin = "\r\n" + name + ": ";
  const size_t at = head.find(begin);
  if (at == std::string::npos) return "absent";
  const size_t from = at + begin.size();
  if (head.find(begin, from) != std::string::npos) return "several";
  return head.substr(from, head.find("\r\n", from) - from);
}

}  // namespace strata::testing
