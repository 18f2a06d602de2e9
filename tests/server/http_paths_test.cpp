// Results of paths and methods, and the name of each exchange.
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "tests/server/http_paths_server.h"

namespace strata::testing::http_paths_test {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

using HttpPathsTest = HttpPathsServer;

TEST_F(HttpPathsTest, EachMethodOfAPathHasItsRoute) {
  Serve();
  EXPECT_THAT(Ask("GET", "/get"), HasSubstr("GET /get got /get "));
  EXPECT_THAT(Ask("POST", "/post", "Content-Length: 0\r\n"), HasSubstr("POST /post got /post "));
  EXPECT_THAT(Ask("GET", "/both"), HasSubstr("GET /both got /both "));
  EXPECT_THAT(Ask("POST", "/both"), HasSubstr("POST /both got /both "));
  EXPECT_THAT(Ask("GET", "/below"), HasSubstr("GET /below got /below "));
  EXPECT_THAT(Ask("GET", "/below/a/b"), HasSubstr("GET /below/ got /below/a/b "));
  EXPECT_THAT(Ask("GET", "/below/a%2Fb"), HasSubstr("GET /below/ got /below/a/b "));
  for (const char* path : {"/", "/get/more", "/ge", "/GET", "//get", "/below2", "/both//"}) {
    EXPECT_TRUE(IsStatus(Ask("GET", path), 404)) << path;
  }
}

TEST_F(HttpPathsTest, ASlashAtTheEndChangesNothing) {
  Serve();
  EXPECT_THAT(Ask("GET", "/get/"), HasSubstr("GET /get got /get "));
  EXPECT_THAT(Ask("GET", "/get/?a=b"), HasSubstr("GET /get got /get "));
  EXPECT_THAT(Ask("POST", "/post/"), HasSubstr("POST /post got /post "));
  EXPECT_THAT(Ask("POST", "/both/"), HasSubstr("POST /both got /both "));
  EXPECT_THAT(Ask("GET", "/below/"), HasSubstr("GET /below got /below "));
  EXPECT_THAT(Ask("GET", "/below/a/"), HasSubstr("GET /below/ got /below/a "));
  EXPECT_TRUE(IsStatus(Ask("HEAD", "/get/"), 200));
  EXPECT_THAT(Ask("GET", "/none/"), HasSubstr("nothing at /none/"));
}

TEST_F(HttpPathsTest, AMethodThatAPathDoesNotHave) {
  Serve();
  const std::vector<std::pair<std::string, std::string>> allowed = {
      {"/get", "GET, HEAD"},   {"/get/", "GET, HEAD"},    {"/post", "POST"},
      {"/below", "GET, HEAD"}, {"/below/a", "GET, HEAD"}, {"/both", "GET, HEAD, POST"}};
  for (const auto& [path, methods] : allowed) {
    for (const std::string method :
         {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"}) {
      const std::string answer = Ask(method, path);
      if ((", " + methods + ", ").find(", " + method + ", ") != std::string::npos) {
        EXPECT_TRUE(IsStatus(answer, 200)) << method << path << answer;
        EXPECT_EQ(HeaderOf(answer, "Allow"), "absent");
        continue;
      }
      EXPECT_TRUE(IsStatus(answer, 405)) << method << path << answer;
      EXPECT_EQ(HeaderOf(answer, "Allow"), methods);
      EXPECT_EQ(HeaderOf(answer, "Content-Type"), "application/json");
      if (method == "HEAD") {
        EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
        continue;
      }
      EXPECT_THAT(answer,
                  HasSubstr("\"method: " + method + " is not one of " + methods + ", which "));
      EXPECT_THAT(answer, HasSubstr(R"("code":"method_not_supported")"));
    }
  }
  for (const std::string method : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"}) {
    EXPECT_TRUE(IsStatus(Ask(method, "/none"), 404)) << method;
  }
}

// A wrong method keeps a connection if nothing follows its headers, and otherwise ends it: a body
// would be read as the next request.
TEST_F(HttpPathsTest, ABodyAfterAWrongMethodIsNoRequest) {
  Serve();
  HttpClient client(server_->address());
  for (const std::string method : {"DELETE", "PUT", "POST", "OPTIONS"}) {
    client.Send(method + " /get HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    EXPECT_TRUE(IsStatus(client.Read("}}"), 405)) << method;
  }
  client.Send("GET /get HTTP/1.1\r\n\r\n");
  EXPECT_TRUE(IsStatus(client.Read("got /get"), 200));

  const std::string inner = "GET /get HTTP/1.1\r\n\r\n";
  const std::string length = "Content-Length: " + std::to_string(inner.size()) + "\r\n\r\n";
  for (const std::string method : {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"}) {
    for (const std::string& framing : {length, std::string("Transfer-Encoding: chunked\r\n\r\n")}) {
      HttpClient one(server_->address());
      const std::string path = method == "POST" ? "/get" : "/post";
      one.Send(method + " " + path + " HTTP/1.1\r\n" + framing + inner);
      const std::string answer = one.Read("never");
      EXPECT_TRUE(IsStatus(answer, 405)) << answer;
      EXPECT_EQ(HeaderOf(answer, "Connection"), "close") << answer;
      EXPECT_EQ(answer.find("HTTP/1.1 ", 1), std::string::npos) << answer;
    }
  }
}

TEST_F(HttpPathsTest, EveryAnswerHasTheClientsId) {
  Serve();
  const std::string id = "trace/0af7651916cd%0d%0aX: y " + std::string(99, '\xe9');
  const std::string header = "X-REQUEST-ID:  " + id + " \r\n";
  EXPECT_THAT(Ask("GET", "/get", header), EndsWith("GET /get got /get " + id));
  EXPECT_THAT(Ask("POST", "/post", header), EndsWith("POST /post got /post " + id));
  const std::vector<std::pair<std::string, std::string>> requests = {
      {"GET", "/get"},
      {"HEAD", "/get"},
      {"POST", "/post"},
      {"GET", "/below/a"},
      {"GET", "/none"},
      {"POST", "/none"},
      {"PUT", "/get"},
      {"OPTIONS", "/get"},
      {"GET", "/post"},
      {"GET", "/stream"},
      {"GET", "/" + std::string(9000, 'x')}};
  for (const auto& [method, path] : requests) {
    EXPECT_EQ(HeaderOf(Ask(method, path, header), "x-request-id"), id) << method << path;
  }
  const std::string wrong = Ask("GET", "/get", header + "Content-Length: x\r\n");
  EXPECT_EQ(HeaderOf(wrong, "x-request-id"), id);
  EXPECT_EQ(HeaderOf(wrong, "Connection"), "close");
  HttpClient large(server_->address());
  large.Send("POST /post HTTP/1.1\r\n" + header + "Content-Length: 1001\r\n\r\n" +
             std::string(1001, 'x'));
  EXPECT_EQ(HeaderOf(large.Read("never"), "x-request-id"), id);  // 413
  std::string many;
  for (int i = 0; i < 2000; ++i) many += "A: 123456789\r\n";
  EXPECT_EQ(HeaderOf(Ask("GET", "/get", header + many), "x-request-id"), id);  // 431
}

TEST_F(HttpPathsTest, AnExchangeWithoutAnIdIsGivenOne) {
  Serve();
  std::set<std::string> seen;
  for (const std::string path : {"/get", "/get", "/none", "/post", "/stream"}) {
    const std::string answer = Ask("GET", path);
    const std::string id = HeaderOf(answer, "x-request-id");
    EXPECT_THAT(id, MatchesRegex("req-[0-9a-f]{16}"));
    EXPECT_TRUE(seen.insert(id).second) << id;
    if (path == "/get") {
      EXPECT_THAT(answer, EndsWith(" " + id));
    }
  }
  HttpClient client(server_->address());  // the next exchange must not inherit from the last
  client.Send("GET /get HTTP/1.1\r\nX-Request-Id: mine\r\n\r\n");
  client.Read("got /get mine");
  client.Send("GET /get HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(HeaderOf(client.Read("never"), "x-request-id"), MatchesRegex("req-[0-9a-f]{16}"));
}

TEST_F(HttpPathsTest, AnIdThatCannotStandInALogIsRefused) {
  Serve();
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {std::string(129, 'x'), "X-Request-Id: 129 bytes; at most 128"},
      {"a\tb", "X-Request-Id: byte 1 is a control character; it may hold none"},
      {"a\x01", "X-Request-Id: byte 1 is a control character; it may hold none"},
      {"\x7f", "X-Request-Id: byte 0 is a control character; it may hold none"},
      {"a\r\nX-Request-Id: a", "X-Request-Id: given twice"}};
  for (const auto& [id, message] : wrong) {
    const std::string answer = Ask("GET", "/get", "x-request-id: " + id + "\r\n");
    EXPECT_TRUE(IsStatus(answer, 400)) << answer;
    EXPECT_THAT(answer, HasSubstr("\"message\":\"" + message + "\""));
    if (message.ends_with("twice")) continue;
    EXPECT_THAT(HeaderOf(answer, "x-request-id"), MatchesRegex("req-[0-9a-f]{16}"));
  }
  EXPECT_TRUE(IsStatus(Ask("GET", "/get", "X-Request-Id: " + std::string(128, 'x') + "\r\n"), 200));
  EXPECT_TRUE(IsStatus(Ask("GET", "/get", "X-Request-Id:\r\n"), 200));
}

}  // namespace
}  // namespace strata::testing::http_paths_test
