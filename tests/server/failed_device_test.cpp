// A server whose device has failed, from outside: its answers, and its end.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "server/base/listen_address.h"
#include "server/cli/commands.h"
#include "tests/server/captured_log.h"
#include "tests/server/grpc_fixture.h"
#include "tests/server/http_client.h"
#include "tests/support/null_backend.h"

namespace strata::testing::failed_device_test {
namespace {

using grpc::health::v1::HealthCheckResponse;
using std::chrono::milliseconds;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kError = "an illegal memory access, says the test";

// Does nothing, until it has failed.
class FailingBackend final : public NullBackend {
 public:
  explicit FailingBackend(const std::atomic<bool>* failed) : failed_(failed) {}
  absl::Status Synchronize() override {
    return *failed_ ? absl::InternalError(kError) : absl::OkStatus();
  }

 private:
  const std::atomic<bool>* const failed_;
};

std::string Get(const std::string& address, const std::string& path) {
  HttpClient client(address);
  client.Send("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  return client.Read("never");
}

class FailedDeviceTest : public GrpcServiceTest {
 protected:
  void SetUp() override {
    engine_.make_backend = [this] { return std::make_unique<FailingBackend>(&failed_); };
  }

  std::atomic<bool> failed_ = false;
  engine::EngineOptions engine_;
};

TEST_F(FailedDeviceTest, RequestsEndWithTheErrorAndHealthSaysSo) {
  const CapturedLog log;
  Serve(engine_, /*watchdog=*/milliseconds(200));
  EXPECT_TRUE(StatusOf(Greedy("a", 3)).ok());
  failed_ = true;
  const grpc::Status ended = StatusOf(Greedy("a", 3));
  EXPECT_EQ(ended.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(ended.error_message(), HasSubstr(kError));
  const grpc::Status refused = StatusOf(Greedy("a", 3));
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr(kError));
  for (int i = 0; i < 1000 && !Get(server_->http_address(), "/readyz").ends_with("failed\n"); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_THAT(Get(server_->http_address(), "/readyz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(Health(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(server_->engine().load().blocks_used, 0);
  server_.reset();  // before the members that it uses
  EXPECT_THAT(log.text(), HasSubstr(std::string("the device has failed: ") + kError));
}

// A port that was free a moment ago; another program might take it.
std::string FreeAddress() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(any);
  EXPECT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&any), size), 0);
  EXPECT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&any), &size), 0);
  close(listener);
  return "127.0.0.1:" + std::to_string(ntohs(any.sin_port));
}

bool Listens(const std::string& address) {
  const auto listen = server::ListenAddress::Parse(address);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  peer.sin_port = htons(static_cast<uint16_t>(listen->port));
  const bool connected = connect(client, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) == 0;
  close(client);
  return connected;
}

TEST_F(FailedDeviceTest, TheProgramEndsWithTheError) {
  const CapturedLog log;  // also restores the test's own logger afterwards
  const std::string address = FreeAddress();
  auto ended = std::async(std::launch::async, [&] {
    return server::RunServe({.model_dir = dir_.path(),
                             .engine = engine_,
                             .grpc_address = "127.0.0.1:0",
                             .http_address = address,
                             .watchdog = milliseconds(200),
                             .log_level = "off"});
  });
  bool ready = false;
  for (int i = 0; i < 1000 && !ready; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    ready = Listens(address) && Get(address, "/readyz").ends_with("ready\n");
  }
  ASSERT_TRUE(ready);
  failed_ = true;
  HttpClient client(address);
  client.Post("/v1/completions", R"({"prompt":"a","temperature":0,"max_tokens":3})");
  EXPECT_THAT(client.Read("\r\n"), StartsWith("HTTP/1.1 500 "));
  const absl::Status status = ended.get();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr(kError));
}

}  // namespace
}  // namespace strata::testing::failed_device_test
