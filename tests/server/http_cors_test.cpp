// CORS: answers to browsers for pages of other origins.
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/http/cors.h"
#include "tests/server/http_paths_server.h"

namespace strata::testing::http_cors_test {
namespace {

using ::testing::EndsWith;

constexpr char kAllowed[] = "Access-Control-Allow-Origin";

class HttpCorsTest : public HttpPathsServer {
 protected:
  void ServeFor(std::vector<std::string> origins, server::HttpGate gate = {}) {
    server::HttpOptions options;
    options.cors = server::Cors(std::move(origins));
    options.gate = std::move(gate);
    Serve(std::move(options));
  }
  static std::string From(const std::string& origin) { return "Origin: " + origin + "\r\n"; }
  static std::string Preflight(const std::string& origin) {
    return From(origin) + "Access-Control-Request-Method: POST\r\n" +
           "Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n";
  }
};

TEST_F(HttpCorsTest, NothingIsSaidUnlessAskedTo) {
  Serve();
  for (const std::string method : {"GET", "OPTIONS"}) {
    const std::string answer = Ask(method, "/get", Preflight("https://a.example"));
    EXPECT_TRUE(IsStatus(answer, method == "GET" ? 200 : 405)) << answer;
    EXPECT_EQ(answer.find("Access-Control"), std::string::npos) << answer;
    EXPECT_EQ(HeaderOf(answer, "Vary"), "absent");
  }
}

TEST_F(HttpCorsTest, APreflightIsAnsweredForAListedOrigin) {
  ServeFor({"https://a.example", "http://localhost:3000"});
  for (const std::string origin : {"https://a.example", "http://localhost:3000"}) {
    for (const std::string path : {"/post", "/post/", "/none"}) {  // so that its 404 can be read
      const std::string answer = Ask("OPTIONS", path, Preflight(origin));
      EXPECT_TRUE(IsStatus(answer, 204)) << answer;
      EXPECT_EQ(HeaderOf(answer, kAllowed), origin);
      EXPECT_EQ(HeaderOf(answer, "Vary"), "Origin");
      EXPECT_EQ(HeaderOf(answer, "Access-Control-Allow-Methods"), "GET, HEAD, POST, OPTIONS");
      EXPECT_EQ(HeaderOf(answer, "Access-Control-Allow-Headers"),
                "authorization,content-type,x-stainless-os");
      EXPECT_EQ(HeaderOf(answer, "Access-Control-Max-Age"), "600");
      EXPECT_EQ(HeaderOf(answer, "Content-Length"), "absent");  // as a 204 must
      EXPECT_EQ(HeaderOf(answer, "Content-Type"), "absent");
      EXPECT_THAT(answer, EndsWith("\r\n\r\n"));
    }
  }
}

TEST_F(HttpCorsTest, AnotherOriginIsToldNothing) {
  ServeFor({"https://a.example"});
  for (const std::string origin : {"https://b.example", "https://a.example.b", "http://a.example",
                                   "https://a.example:8443", "null", "*", "https%3A//a.example"}) {
    for (const std::string method : {"OPTIONS", "GET"}) {
      const std::string answer = Ask(method, "/get", Preflight(origin));
      EXPECT_TRUE(IsStatus(answer, method == "GET" ? 200 : 204)) << answer;
      EXPECT_EQ(answer.find("Access-Control"), std::string::npos) << answer;
      EXPECT_EQ(HeaderOf(answer, "Vary"), "Origin");
    }
  }
}

TEST_F(HttpCorsTest, AnswersErrorsAndStreamsCanBeRead) {
  ServeFor({"https://a.example"});
  const std::vector<std::pair<std::string, int>> answers = {
      {"/get", 200}, {"/stream", 200}, {"/post", 405}, {"/none", 404}};
  for (const auto& [path, status] : answers) {
    const std::string answer = Ask("GET", path, From("https://a.example"));
    EXPECT_TRUE(IsStatus(answer, status)) << answer;
    EXPECT_EQ(HeaderOf(answer, kAllowed), "https://a.example");
    EXPECT_EQ(HeaderOf(answer, "Access-Control-Expose-Headers"), "x-request-id, retry-after");
  }
  const std::string malformed =
      Ask("GET", "/get", From("https://a.example") + "Content-Length: x\r\n");
  EXPECT_TRUE(IsStatus(malformed, 400)) << malformed;
  EXPECT_EQ(HeaderOf(malformed, kAllowed), "https://a.example");
}

TEST_F(HttpCorsTest, AStarIsForAnyOrigin) {
  ServeFor({"*"});
  for (const std::string& headers : {std::string(), From("null"), Preflight("https://a.example")}) {
    const std::string answer = Ask("GET", "/get", headers);
    EXPECT_EQ(HeaderOf(answer, kAllowed), "*");
    EXPECT_EQ(HeaderOf(answer, "Vary"), "absent");
  }
  EXPECT_TRUE(IsStatus(Ask("OPTIONS", "/get", Preflight("null")), 204));
}

TEST_F(HttpCorsTest, APreflightNeedsNoKeyAndAnAnswerDoes) {
  ServeFor({"https://a.example"},
           [](const server::HttpCall& call) -> std::optional<server::HttpReply> {
             if (call.authorization == "yes") return std::nullopt;
             return server::HttpError(401, "no");
           });
  EXPECT_TRUE(IsStatus(Ask("OPTIONS", "/post", Preflight("https://a.example")), 204));
  const std::string refused = Ask("POST", "/post", From("https://a.example"));
  EXPECT_TRUE(IsStatus(refused, 401)) << refused;
  EXPECT_EQ(HeaderOf(refused, kAllowed), "https://a.example");
  EXPECT_TRUE(IsStatus(Ask("OPTIONS", "/post", From("https://a.example")), 401));  // no preflight
  const std::string asked = Ask("OPTIONS", "/post", "Authorization: yes\r\n");
  EXPECT_TRUE(IsStatus(asked, 204)) << asked;
  EXPECT_EQ(HeaderOf(asked, "Allow"), "POST, OPTIONS");
  EXPECT_EQ(HeaderOf(Ask("PUT", "/post", "Authorization: yes\r\n"), "Allow"), "POST, OPTIONS");
}

TEST_F(HttpCorsTest, WhatAPageWantsToSendBecomesNoLineOfItsOwn) {
  ServeFor({"*"});
  for (const std::string& names : {std::string("a%0d%0aSet-Cookie: b=c"), std::string("a\x80"),
                                   std::string("a: b"), std::string()}) {
    const std::string answer =
        Ask("OPTIONS", "/get",
            From("https://a.example") + "Access-Control-Request-Method: GET\r\n" +
                "Access-Control-Request-Headers: " + names + "\r\n");
    EXPECT_TRUE(IsStatus(answer, 204)) << answer;
    EXPECT_EQ(HeaderOf(answer, "Access-Control-Allow-Headers"),
              "authorization, content-type, x-request-id");
    EXPECT_EQ(answer.find("Set-Cookie"), std::string::npos) << answer;
  }
}

TEST(CorsTest, AnOriginIsAsBrowsersWriteIt) {
  for (const char* right : {"*", "https://a.example", "http://localhost:3000", "http://[::1]:8080",
                            "chrome-extension://abcdef", "https://a_b-c.example:8443"}) {
    EXPECT_TRUE(server::CheckOrigin(right).ok()) << right;
  }
  for (const char* wrong :
       {"", "a.example", "https://", "://a", "https://a.example/", "https://A.example",
        "HTTPS://a.example", "https://a.example/path", "https://a b", "null", "https://*.example",
        "https://a.example:443", "http://a.example:80",
        "https://a.example:", "https://\xc3\xa4.example", "https://u@a.example"}) {
    EXPECT_EQ(server::CheckOrigin(wrong).message(),
              std::string("'") + wrong +
                  "' is not * or an origin as browsers write it, such as https://chat.example.com");
  }
}

}  // namespace
}  // namespace strata::testing::http_cors_test
