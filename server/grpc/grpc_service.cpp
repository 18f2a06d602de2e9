#include "server/grpc/grpc_service.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kvcache/base/errors.h"
#include "server/grpc/grpc_messages.h"
#include "server/grpc/grpc_status.h"
#include "server/text/text_tokens.h"

namespace strata::server {
namespace {

constexpr std::chrono::seconds kYear = std::chrono::hours(24 * 365);

// The call's deadline on the engine's clock. For a call without one gRPC gives the end of time, and
// some clients give centuries, which do not fit a clock's nanoseconds.
std::optional<engine::Request::Time> DeadlineOf(const grpc::CallbackServerContext& call) {
  const gpr_timespec left = gpr_time_sub(
      gpr_convert_clock_type(call.raw_deadline(), GPR_CLOCK_REALTIME), gpr_now(GPR_CLOCK_REALTIME));
  const std::chrono::seconds seconds(left.tv_sec);
  if (seconds > kYear) return std::nullopt;
  return engine::Request::Time::clock::now() + seconds + std::chrono::nanoseconds(left.tv_nsec);
}

std::string_view AuthorizationOf(const grpc::CallbackServerContext& call) {
  const auto found = call.client_metadata().find("authorization");
  if (found == call.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

// One Generate call. Every path ends in exactly one Finish, after which gRPC calls OnDone:
//   refused     the constructor finishes
//   accepted    Generation calls OnClosed, always and last, on the pump's thread; a client that is
//               gone, or stands still, only makes it come sooner
// At most one write is in flight: the next event comes after Resume.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateEvent>,
                              public GenerationClient {
 public:
  GenerateReactor(const GenerationContext& context, grpc::CallbackServerContext* call,
                  const v1::GenerateRequest& message)
      : call_(call) {
    const absl::Status status = Begin(context, message);
    if (status.ok()) return;
    generation_.reset();  // a cancel would end another request in flight with the same id
    RecordRefusal(context, message.request_id(), status, key_);
    Finish(ToGrpcStatus(status));
  }

  // gRPC's threads.
  void OnWriteDone(bool ok) override {
    if (!ok) generation_->Cancel();
    generation_->Resume();
  }
  void OnCancel() override {
    if (generation_) generation_->Cancel();
  }
  void OnDone() override { delete this; }

  // The pump's thread.
  void OnStarted(GenerationStarted started) override {
    FillStarted(started, NewEvent(0)->mutable_started());
    StartWrite(&event_);
  }
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override {
    FillPromptLogprobs(logprobs, NewEvent(0)->mutable_prompt_logprobs());
    StartWrite(&event_);
  }
  void OnDelta(GenerationDelta delta) override {
    v1::GenerateEvent* const event = NewEvent(delta.index);
    FillDelta(std::move(delta), event->mutable_delta());
    StartWrite(&event_);
  }
  void OnFinished(GenerationFinished finished) override {
    FillFinished(finished, NewEvent(finished.index)->mutable_finished());
    StartWrite(&event_);
  }
  void OnStalled() override { call_->TryCancel(); }  // the write fails: OnWriteDone(false)
  void OnClosed(const absl::Status& status) override { Finish(ToGrpcStatus(status)); }

 private:
  absl::Status Begin(const GenerationContext& context, const v1::GenerateRequest& message) {
    std::shared_ptr<Caller> caller;
    absl::Status admitted = AdmitCaller(context, AuthorizationOf(*call_), &caller);
    if (caller) key_ = caller->key();
    if (!admitted.ok()) return admitted;
    ASSIGN_OR_RETURN(auto request, ParseRequest(message, context.engine->model().defaults));
    request.caller = std::move(caller);
    request.deadline = DeadlineOf(*call_);
    ASSIGN_OR_RETURN(auto generation, Generation::Create(context, std::move(request), this));
    generation_ = std::move(generation);  // before Start: the pump may call at once
    return generation_->Start();
  }

  v1::GenerateEvent* NewEvent(int32_t index) {
    event_.Clear();
    event_.set_request_id(generation_->id());
    event_.set_index(index);
    return &event_;
  }

  grpc::CallbackServerContext* const call_;
  std::string key_;                         // the caller's name, if a key was required
  std::shared_ptr<Generation> generation_;  // set before Start, constant then; null: refused
  v1::GenerateEvent event_;                 // the write in flight
};

grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* call, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateEvent>* GrpcService::Generate(
    grpc::CallbackServerContext* call, const v1::GenerateRequest* request) {
  return new GenerateReactor(context_, call, *request);  // deleted by OnDone
}

grpc::ServerUnaryReactor* GrpcService::GetModel(grpc::CallbackServerContext* call,
                                                const v1::GetModelRequest* /*request*/,
                                                v1::Model* response) {
  FillModel(context_.engine->model(), response);
  return Reply(call, absl::OkStatus());
}

grpc::ServerUnaryReactor* GrpcService::Tokenize(grpc::CallbackServerContext* call,
                                                const v1::TokenizeRequest* request,
                                                v1::TokenizeResponse* response) {
  return Reply(call, Encode(AuthorizationOf(*call), *request, response));
}

absl::Status GrpcService::Encode(std::string_view authorization, const v1::TokenizeRequest& request,
                                 v1::TokenizeResponse* response) const {
  std::shared_ptr<Caller> caller;
  RETURN_IF_ERROR(AdmitCaller(context_, authorization, &caller));
  RETURN_IF_ERROR(RefuseUnknownFields(request));
  const bool add_special = request.has_add_special_tokens() ? request.add_special_tokens() : true;
  ASSIGN_OR_RETURN(const auto ids,
                   TokensOf(*context_.tokenizer, "text", request.text(), add_special));
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  return absl::OkStatus();
}

grpc::ServerUnaryReactor* GrpcService::Detokenize(grpc::CallbackServerContext* call,
                                                  const v1::DetokenizeRequest* request,
                                                  v1::DetokenizeResponse* response) {
  return Reply(call, Decode(AuthorizationOf(*call), *request, response));
}

absl::Status GrpcService::Decode(std::string_view authorization,
                                 const v1::DetokenizeRequest& request,
                                 v1::DetokenizeResponse* response) const {
  std::shared_ptr<Caller> caller;
  RETURN_IF_ERROR(AdmitCaller(context_, authorization, &caller));
  RETURN_IF_ERROR(RefuseUnknownFields(request));
  const bool skip_special =
      request.has_skip_special_tokens() ? request.skip_special_tokens() : true;
  ASSIGN_OR_RETURN(auto text, TextOf(*context_.tokenizer, "token_ids",
                                     {request.token_ids().data(),
                                      static_cast<size_t>(request.token_ids().size())},
                                     skip_special));
  response->set_text(std::move(text));
  return absl::OkStatus();
}

}  // namespace strata::server
