#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "strata/v1/inference.grpc.pb.h"
#include "tests/server/served_model.h"

namespace strata::testing {

// A call from its first message to its status.
struct Stream {
  explicit Stream(v1::Inference::Stub* stub, const v1::GenerateRequest& request)
      : reader(stub->Generate(&context, request)) {}

  bool Next() { return reader->Read(&event); }
  grpc::Status Rest() {
    while (Next()) Collect();
    return reader->Finish();
  }
  void Collect() {
    kinds.push_back(event.event_case());
    if (event.has_started()) started = event.started();
    if (event.has_finished()) finished = event.finished();
    text += event.delta().text();
    ids.insert(ids.end(), event.delta().token_ids().begin(), event.delta().token_ids().end());
  }

  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<v1::GenerateEvent>> reader;
  v1::GenerateEvent event;
  std::vector<v1::GenerateEvent::EventCase> kinds;
  v1::Started started;
  v1::Finished finished;
  std::string text;
  std::vector<int32_t> ids;
};

inline v1::GenerateRequest Greedy(const std::string& text, int32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.set_max_tokens(max_tokens);
  request.set_temperature(0);
  request.set_ignore_eos(true);
  return request;
}

// A request that takes the engine long enough to be cut off.
inline v1::GenerateRequest Lasting() {
  v1::GenerateRequest request = Greedy("abc", 500);
  request.set_n(16);
  return request;
}

class GrpcServiceTest : public ::testing::Test {
 protected:
  void Serve(engine::EngineOptions engine,
             std::chrono::milliseconds watchdog = std::chrono::minutes(1)) {
    engine.threads = 1;
    auto started = server::Server::Start({.model_dir = dir_.path(),
                                          .engine = std::move(engine),
                                          .grpc_address = "127.0.0.1:0",
                                          .http_address = "127.0.0.1:0",
                                          .watchdog = watchdog,
                                          .log_level = "info"});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    channel_ = grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                         arguments);
    stub_ = v1::Inference::NewStub(channel_);
  }
  void SetUp() override { Serve({}); }

  grpc::Status StatusOf(const v1::GenerateRequest& request) {
    return Stream(stub_.get(), request).Rest();
  }

  // Waits until the engine is idle; its cache must then be empty.
  int32_t BlocksUsedWhenIdle() {
    for (int i = 0; i < 5000; ++i) {
      const auto load = server_->engine().load();
      if (load.running == 0 && load.waiting == 0 && load.blocks_used == 0) return 0;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return server_->engine().load().blocks_used;
  }

  grpc::health::v1::HealthCheckResponse::ServingStatus Health(const std::string& service) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(service);
    grpc::health::v1::HealthCheckResponse response;
    const auto status =
        grpc::health::v1::Health::NewStub(channel_)->Check(&context, request, &response);
    return status.ok() ? response.status() : grpc::health::v1::HealthCheckResponse::SERVICE_UNKNOWN;
  }

  TinyModelDir dir_;
  std::unique_ptr<server::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace strata::testing
