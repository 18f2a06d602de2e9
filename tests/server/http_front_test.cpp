// The paths that clients ask for first, without a model and with one.
#include "server/http_front.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "server/openai/served_models.h"
#include "tests/server/generation_testing.h"
#include "tests/server/http_client.h"

namespace strata::testing::http_front_test {
namespace {

using server::Health;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class HttpFrontTest : public GenerationTest {
 protected:
  HttpFrontTest() {
    server::HttpOptions options;
    options.address = "127.0.0.1:0";
    auto front = server::HttpFront::Start(std::move(options), &metrics_);
    EXPECT_TRUE(front.ok()) << front.status();
    front_ = *std::move(front);
  }
  void Open(std::vector<std::string> names = {}) {
    front_->Open(context_, /*payload_limit=*/1 << 20, std::move(names));
    front_->SetHealth(Health::kServing);
  }
  std::string Ask(const std::string& method, const std::string& path,
                  const std::string& body = "") const {
    HttpClient client(front_->address());
    client.Send(method + " " + path + " HTTP/1.1\r\nConnection: close\r\nContent-Length: " +
                std::to_string(body.size()) + "\r\n\r\n" + body);
    return client.Read("never");
  }
  std::string Get(const std::string& path) const { return Ask("GET", path); }

  std::unique_ptr<server::HttpFront> front_;
};

TEST_F(HttpFrontTest, HealthIsSaidOnEachPathThatIsAskedFor) {
  const std::vector<std::pair<std::string, std::string>> paths = {{"GET", "/readyz"},
                                                                  {"GET", "/health"},
                                                                  {"GET", "/health/"},
                                                                  {"GET", "/ping"},
                                                                  {"POST", "/ping"}};
  const std::vector<std::pair<Health, std::string>> states = {{Health::kLoading, "loading\n"},
                                                              {Health::kServing, "ready\n"},
                                                              {Health::kStalled, "stalled\n"},
                                                              {Health::kFailed, "failed\n"},
                                                              {Health::kDraining, "draining\n"}};
  for (const auto& [health, word] : states) {
    front_->SetHealth(health);
    for (const auto& [method, path] : paths) {
      const std::string answer = Ask(method, path);
      EXPECT_THAT(answer,
                  StartsWith(health == Health::kServing ? "HTTP/1.1 200 " : "HTTP/1.1 503 "));
      EXPECT_THAT(answer, EndsWith("\r\n\r\n" + word)) << method << path;
    }
    EXPECT_THAT(Ask("HEAD", "/health"),
                StartsWith(health == Health::kServing ? "HTTP/1.1 200 " : "HTTP/1.1 503 "));
    EXPECT_THAT(Get("/healthz"), EndsWith("\r\n\r\nok\n"));
  }
}

TEST_F(HttpFrontTest, TheVersionIsTheProgramsAndNeedsNoModel) {
  EXPECT_THAT(Get("/version"), EndsWith("\r\n\r\n{\"version\":\"0.1.0\"}"));
}

TEST_F(HttpFrontTest, WhatNeedsTheModelWaitsForIt) {
  const std::vector<std::pair<std::string, std::string>> paths = {
      {"GET", "/v1/models"},       {"GET", "/v1/models/tiny"}, {"GET", "/tokenizer_info"},
      {"POST", "/v1/completions"}, {"POST", "/tokenize"},      {"POST", "/detokenize"}};
  for (const auto& [method, path] : paths) {
    const std::string answer = Ask(method, path, method == "POST" ? "{}" : "");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 ")) << path;
    EXPECT_THAT(answer, HasSubstr("the model is being loaded"));
    EXPECT_THAT(answer, HasSubstr("\r\nRetry-After: 1\r\n"));
  }
  Open();
  EXPECT_THAT(Ask("POST", "/tokenize", R"({"prompt":"a"})"), HasSubstr("\"tokens\":[98]"));
  EXPECT_THAT(Ask("POST", "/tokenize/", R"({"prompt":"a"})"), HasSubstr("\"tokens\":[98]"));
  EXPECT_THAT(Ask("POST", "/detokenize", R"({"tokens":[98]})"), EndsWith("{\"prompt\":\"a\"}"));
  EXPECT_THAT(Get("/tokenizer_info"), HasSubstr("\"eos_token\":\"<|end|>\""));
  EXPECT_THAT(Ask("POST", "/v1/completions/", R"({"prompt":"a","max_tokens":1})"),
              StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get("/tokenize"), StartsWith("HTTP/1.1 405 "));
}

TEST_F(HttpFrontTest, EachNameOfTheModelIsListedAndTaken) {
  Open({"first", "org/second", "a b"});
  const std::string list = Get("/v1/models/");
  EXPECT_THAT(list, StartsWith("HTTP/1.1 200 "));
  const std::vector<std::pair<std::string, std::string>> names = {{"first", "first"},
                                                                  {"org/second", "org/second"},
                                                                  {"org%2Fsecond/", "org/second"},
                                                                  {"org%2fsecond", "org/second"},
                                                                  {"a%20b", "a b"}};
  for (const auto& [path, name] : names) {
    const std::string id = "\"id\":\"" + name + "\"";
    EXPECT_THAT(list, HasSubstr(id));
    EXPECT_THAT(Get("/v1/models/" + path), HasSubstr(id)) << path;
    const std::string answer =
        Ask("POST", "/v1/completions", R"({"prompt":"a","max_tokens":1,"model":")" + name + "\"}");
    EXPECT_THAT(answer, HasSubstr("\"model\":\"first\"")) << answer;
  }
  EXPECT_THAT(list, HasSubstr("\"max_model_len\":512"));
  for (const std::string path :
       {"org", "second", "org/", "first/second", "org/second/third", "/"}) {
    const std::string answer = Get("/v1/models/" + path);
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 404 ")) << path;
    EXPECT_THAT(answer, HasSubstr("\"model_not_found\"")) << path;
  }
  const std::string engines = engine_->model().name;  // not one of the served names
  EXPECT_THAT(Get("/v1/models/" + engines), StartsWith("HTTP/1.1 404 "));
}

TEST_F(HttpFrontTest, UnlessNamedTheModelIsCalledAsTheEngineSays) {
  Open();
  EXPECT_THAT(Get("/v1/models/" + engine_->model().name), StartsWith("HTTP/1.1 200 "));
}

TEST(ServedModelsTest, ANameIsOneThatAPathAndALogCanHold) {
  for (const std::string right : {"a", "org/name", "a b", "\xc3\xa4", "v1.0:latest"}) {
    EXPECT_TRUE(server::CheckModelName(right).ok()) << right;
  }
  EXPECT_TRUE(server::CheckModelName(std::string(256, 'x')).ok());
  for (const std::string wrong : {"", "a/", "/", "a\nb", "\x7f", "\xff"}) {
    EXPECT_FALSE(server::CheckModelName(wrong).ok()) << wrong;
  }
  EXPECT_FALSE(server::CheckModelName(std::string(257, 'x')).ok());
}

}  // namespace
}  // namespace strata::testing::http_front_test
