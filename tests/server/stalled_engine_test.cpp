// A server whose engine stands still in the middle of a step, from outside: it reports the stall,
// and still answers.
#include <sys/resource.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "tests/server/captured_log.h"
#include "tests/server/grpc_fixture.h"
#include "tests/server/http_client.h"
#include "tests/support/gated_backend.h"

namespace strata::testing::stalled_engine_test {
namespace {

using grpc::health::v1::HealthCheckResponse;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kGenerations = 960;  // over HTTP, at a time

class StalledEngineTest : public GrpcServiceTest {
 protected:
  void SetUp() override {
    engine::EngineOptions engine;
    engine.make_backend = [this] { return std::make_unique<GatedBackend>(&gate_); };
    Serve(engine, /*watchdog=*/milliseconds(200));
  }
  void TearDown() override {
    gate_.Open();
    server_.reset();  // before the members that it uses
  }

  std::string Get(const std::string& path) {
    HttpClient client(server_->http_address());
    client.Send("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    return client.Read("never");
  }
  bool BecomesReady(const std::string& answer) {
    for (int i = 0; i < 1000; ++i) {
      if (Get("/readyz").ends_with(answer)) return true;
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }
  static std::string Completion(int32_t max_tokens) {
    return R"({"prompt":"a","temperature":0,"ignore_eos":true,"max_tokens":)" +
           std::to_string(max_tokens) + "}";
  }

  CapturedLog log_;
  Gate gate_;
};

TEST_F(StalledEngineTest, HealthSaysSoUntilItGoesOn) {
  EXPECT_TRUE(BecomesReady("ready\n"));
  HttpClient client(server_->http_address());
  client.Post("/v1/completions", Completion(3));
  gate_.Await();
  ASSERT_TRUE(BecomesReady("stalled\n"));
  EXPECT_THAT(Get("/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get("/metrics"), HasSubstr("\nvllm:num_requests_running 1\n"));
  EXPECT_EQ(Health(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health("strata.v1.Inference"), HealthCheckResponse::NOT_SERVING);
  gate_.Open();
  EXPECT_THAT(client.Read("\r\n"), StartsWith("HTTP/1.1 200 "));
  ASSERT_TRUE(BecomesReady("ready\n"));
  EXPECT_EQ(Health(""), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health("strata.v1.Inference"), HealthCheckResponse::SERVING);
  server_.reset();  // no thread writes to the log any more
  EXPECT_THAT(log_.text(), HasSubstr("watchdog: step 1 has run for "));
  EXPECT_THAT(log_.text(), HasSubstr(" (1 sequences run, 0 wait)"));
  EXPECT_THAT(log_.text(), HasSubstr("watchdog: the engine goes on"));
}

TEST_F(StalledEngineTest, TheRestIsAnsweredWhenNoMoreMayGenerate) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = std::min<rlim_t>(files.rlim_max, 8192);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_cur < 4096) GTEST_SKIP() << files.rlim_cur << " open files are too few";
  constexpr int32_t kMaxTokens = 500;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < kGenerations; ++i) {
    clients.push_back(std::make_unique<HttpClient>(server_->http_address()));
    clients.back()->Post("/v1/completions", Completion(kMaxTokens));
  }
  // Step by step, so that no request ends before all have come.
  const auto seen = [this] {
    return server_->engine().load().running + server_->engine().load().waiting;
  };
  for (int step = 0; step < kMaxTokens / 2 && seen() < kGenerations; ++step) {
    gate_.Await();
    gate_.LetOne();
    std::this_thread::sleep_for(milliseconds(20));
  }
  ASSERT_EQ(seen(), kGenerations);
  HttpClient refused(server_->http_address());
  refused.Post("/v1/completions", Completion(1));
  const std::string answer = refused.Read("}}");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 429 "));
  EXPECT_THAT(answer, HasSubstr("960 completions run or wait over HTTP, which is the limit"));
  EXPECT_THAT(Get("/healthz"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get("/v1/models"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(Get("/metrics"), HasSubstr("\nvllm:num_requests_running 256\n"));
  gate_.Open();
  for (const auto& client : clients) EXPECT_THAT(client->Read("\r\n"), StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(BlocksUsedWhenIdle(), 0);
  refused.Post("/v1/completions", Completion(1));  // on the same connection
  EXPECT_THAT(refused.Read("\r\n"), StartsWith("HTTP/1.1 200 "));
}

}  // namespace
}  // namespace strata::testing::stalled_engine_test
