// The cost of a streamed message to the server, from the engine's token to the bytes on the socket:
// outbox, pump, detokenizer, message, gRPC or HTTP. The model does nothing, a step sleeps for 10
// ms, and the server is a process of its own. The figure is the server's processor time over the
// messages that its clients received; it includes the engine's own work for these tokens.
//
//   build/bin/strata-stream-bench
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "server/server.h"
#include "strata/v1/inference.grpc.pb.h"
#include "tests/support/null_backend.h"

namespace strata::testing {
namespace {

constexpr int32_t kTokens = 300;
constexpr int32_t kForced = 300;  // some token with text

class SlowNothing final : public NullBackend {
 public:
  void Embed(const kernels::Matrix&, std::span<const int32_t>, kernels::Rows) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
};

struct Addresses {
  std::array<char, 64> grpc{}, http{};
};

// The server, in a process of its own until destruction.
class ServerProcess {
 public:
  ServerProcess() {
    std::array<int, 2> up{}, down{};
    if (pipe(up.data()) != 0 || pipe(down.data()) != 0) throw std::runtime_error("pipe");
    process_ = fork();
    if (process_ == 0) {
      close(down[1]);
      Serve(up[1], down[0]);
    }
    close(down[0]);
    stop_ = down[1];
    if (read(up[0], &addresses_, sizeof(addresses_)) != sizeof(addresses_)) {
      throw std::runtime_error("the server did not start");
    }
  }
  ~ServerProcess() {
    close(stop_);
    waitpid(process_, nullptr, 0);
  }

  std::string grpc() const { return addresses_.grpc.data(); }
  std::string http() const { return addresses_.http.data(); }
  double CpuSeconds() const {
    clockid_t clock = 0;
    timespec time{};
    if (clock_getcpuclockid(process_, &clock) != 0) throw std::runtime_error("no clock");
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  }

 private:
  [[noreturn]] static void Serve(int up, int down) {
    server::ServeOptions options;
    options.model_dir = STRATA_SOURCE_DIR "/deploy/models/svformer";
    options.engine.make_backend = [] { return std::make_unique<SlowNothing>(); };
    options.grpc_address = options.http_address = "127.0.0.1:0";
    {
      auto server = server::Server::Start(options);
      if (!server.ok()) _exit(1);
      Addresses addresses;
      (*server)->address().copy(addresses.grpc.data(), addresses.grpc.size() - 1);
      (*server)->http_address().copy(addresses.http.data(), addresses.http.size() - 1);
      if (write(up, &addresses, sizeof(addresses)) < 0) _exit(1);
      char byte = 0;
      while (read(down, &byte, 1) > 0) {
      }
    }
    _exit(0);
  }

  pid_t process_ = 0;
  int stop_ = -1;
  Addresses addresses_;
};

// Runs one stream to its end; returns the number of messages with tokens.
int64_t StreamGrpc(const ServerProcess& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel =
      grpc::CreateCustomChannel(server.grpc(), grpc::InsecureChannelCredentials(), arguments);
  const auto stub = v1::Inference::NewStub(channel);
  v1::GenerateRequest request;
  request.set_text("Once upon a time");
  request.set_max_tokens(kTokens);
  request.set_ignore_eos(true);
  request.set_temperature(0);
  (*request.mutable_logit_bias())[kForced] = 100;
  grpc::ClientContext context;
  const auto reader = stub->Generate(&context, request);
  v1::GenerateEvent event;
  int64_t messages = 0;
  while (reader->Read(&event)) messages += event.has_delta() ? 1 : 0;
  if (const auto status = reader->Finish(); !status.ok()) {
    throw std::runtime_error(status.error_message());
  }
  return messages;
}

int64_t StreamHttp(const ServerProcess& server) {
  const int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  const std::string address = server.http();
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  if (connect(client, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)) != 0) {
    throw std::runtime_error("cannot connect");
  }
  const std::string body =
      R"({"prompt":"Once upon a time","stream":true,"ignore_eos":true,"temperature":0,)"
      R"("logit_bias":{")" +
      std::to_string(kForced) + R"(":100},"max_tokens":)" + std::to_string(kTokens) + "}";
  const std::string request =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body;
  if (send(client, request.data(), request.size(), 0) < 0) throw std::runtime_error("send");
  std::string text;
  std::array<char, 65536> buffer;
  for (ssize_t got = 0; (got = recv(client, buffer.data(), buffer.size(), 0)) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  close(client);
  int64_t messages = 0;
  for (size_t at = 0; (at = text.find("data: {", at)) != std::string::npos; ++at) ++messages;
  return messages;
}

void Measure(const ServerProcess& server, const char* front, int32_t streams,
             const std::function<int64_t(const ServerProcess&)>& stream) {
  std::atomic<int64_t> messages = 0;
  const double before = server.CpuSeconds();
  {
    std::vector<std::jthread> clients;
    for (int32_t i = 0; i < streams; ++i) {
      clients.emplace_back([&] { messages += stream(server); });
    }
  }
  const double seconds = server.CpuSeconds() - before;
  const double tokens = static_cast<double>(streams) * kTokens;
  const auto count = static_cast<double>(messages.load());
  std::printf("%-5s  %7d  %8.0f  %16.2f  %20.1f\n", front, streams, count, tokens / count,
              seconds * 1e6 / count);
  std::fflush(stdout);
}

}  // namespace
}  // namespace strata::testing

int main() {
  using namespace strata::testing;
  const ServerProcess server;  // before this process has threads
  std::printf("%-5s  %7s  %8s  %16s  %20s\n", "front", "streams", "messages", "tokens a message",
              "microseconds of each");
  for (const int32_t streams : {1, 16, 64, 256}) {
    Measure(server, "gRPC", streams, StreamGrpc);
    Measure(server, "HTTP", streams, StreamHttp);
  }
}
