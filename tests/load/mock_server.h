#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "strata/v1/inference.grpc.pb.h"

namespace strata::testing {

// A server of strata.v1 that answers as a test configures it and records the time of each message.
// In this process; a thread for each call.
class MockServer final : public v1::Inference::Service {
 public:
  using Instant = std::chrono::steady_clock::time_point;
  struct Behaviour {
    std::chrono::microseconds first{1000};  // from the request to the first token
    std::chrono::microseconds gap{1000};    // between tokens
    int32_t tokens_a_message = 1;
    bool answers = true;  // else nothing ever comes
  };
  struct Sent {
    Instant received;
    std::string session = {};       // metadata
    std::vector<Instant> messages;  // with tokens
    bool cancelled = false;
  };

  explicit MockServer(Behaviour behaviour, const std::string& address = "127.0.0.1:0")
      : behaviour_(behaviour) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~MockServer() override { Stop(); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    wake_.notify_all();
    server_->Shutdown(std::chrono::system_clock::now());
  }
  std::vector<Sent> sent() const {
    const std::lock_guard lock(mutex_);
    return sent_;
  }

  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                        v1::Model* model) override {
    model->set_name("mock");
    model->set_vocab_size(1000);
    model->set_max_positions(4096);
    model->set_cache_tokens(1 << 20);
    return grpc::Status::OK;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateEvent>* writer) override {
    Sent sent{.received = std::chrono::steady_clock::now(), .messages = {}};
    const auto& metadata = context->client_metadata();
    if (const auto found = metadata.find("x-strata-session"); found != metadata.end()) {
      sent.session = std::string(found->second.data(), found->second.size());
    }
    const grpc::Status status = Write(*context, *request, writer, &sent);
    sent.cancelled = context->IsCancelled();
    const std::lock_guard lock(mutex_);
    sent_.push_back(std::move(sent));
    return status;
  }

 private:
  grpc::Status Write(const grpc::ServerContext& context, const v1::GenerateRequest& request,
                     grpc::ServerWriter<v1::GenerateEvent>* writer, Sent* sent) {
    if (!behaviour_.answers) {
      while (!context.IsCancelled() && WaitUntil(Instant::clock::now() + kPoll)) {
      }
      return grpc::Status::CANCELLED;
    }
    v1::GenerateEvent event;
    for (const int32_t id : request.token_ids().ids()) {
      event.mutable_started()->add_prompt_token_ids(id);
    }
    writer->Write(event);
    Instant due = sent->received + behaviour_.first;
    for (int32_t made = 0; made < request.max_tokens(); due += behaviour_.gap) {
      if (!WaitUntil(due)) return {grpc::StatusCode::UNAVAILABLE, "stopped"};
      event.Clear();
      for (int32_t i = 0; i < behaviour_.tokens_a_message && made < request.max_tokens(); ++i) {
        event.mutable_delta()->add_token_ids(made++);
      }
      sent->messages.push_back(Instant::clock::now());
      if (!writer->Write(event)) return grpc::Status::CANCELLED;
    }
    event.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    event.mutable_finished()->mutable_metrics()->set_generated_tokens(request.max_tokens());
    writer->Write(event);
    return grpc::Status::OK;
  }
  bool WaitUntil(Instant due) {
    std::unique_lock lock(mutex_);
    return !wake_.wait_until(lock, due, [this] { return stopped_; });
  }

  static constexpr std::chrono::milliseconds kPoll{20};
  const Behaviour behaviour_;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool stopped_ = false;
  std::vector<Sent> sent_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace strata::testing
