#include "tests/load/grpc_transport.h"

#include <time.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/cli/client.h"

namespace strata::load {
namespace {

constexpr int kMaxMessageBytes = 256 << 20;
constexpr const char* kSessionKey = "x-strata-session";  // deploy/haproxy.cfg balances by it
constexpr Time kAnswerTimeout = std::chrono::seconds(3);
// gRPC rounds waits up to whole milliseconds, twice. The end of a wait is spent in naps, so that
// nothing is sent late and no core is taken from the server.
constexpr Time kLastNaps = std::chrono::milliseconds(2);
constexpr Time kNap = std::chrono::microseconds(50);

// A deadline that does not move when the machine's time of day is set. No wait gives a deadline in
// the past, as "now" would be rounded up to a wait too.
gpr_timespec After(Time wait) {
  if (wait <= Time(0)) return gpr_inf_past(GPR_CLOCK_MONOTONIC);
  return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                      gpr_time_from_nanos(wait.count(), GPR_TIMESPAN));
}

std::shared_ptr<grpc::Channel> Dial(const std::string& address, const server::Access& access) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);          // the server is in one's own network
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection for each channel
  return access.Dial(address, arguments);
}

Time ThreadTime() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

}  // namespace

absl::StatusOr<v1::Model> AskModel(const std::string& address, const server::Access& access) {
  const auto stub = v1::Inference::NewStub(Dial(address, access));
  grpc::ClientContext context;
  access.Authorize(&context);
  context.set_deadline(After(kAnswerTimeout));
  v1::Model model;
  const grpc::Status status = stub->GetModel(&context, {}, &model);
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return model;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError(
          absl::StrCat(address, ": no answer in ",
                       std::chrono::ceil<std::chrono::seconds>(kAnswerTimeout).count(),
                       " s; is a Strata server listening there, and is it its gRPC address?"));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(
          absl::StrCat(address, ": speaks gRPC, but not strata.v1.Inference"));
    default:
      return absl::UnavailableError(
          absl::StrCat(address, ": ", std::string(server::FromGrpcStatus(status).message())));
  }
}

// A call's steps; each is one event of the queue, with the call as its tag.
struct GrpcTransport::Call {
  enum class Step { kStarting, kReading, kFinishing };

  uint64_t stream = 0;
  Step step = Step::kStarting;
  bool read_next = false;  // to be set going once the returned message is no longer needed
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateEvent>> reader;
  v1::GenerateEvent message;
  grpc::Status status;
};

GrpcTransport::GrpcTransport(const std::string& address, int32_t connections, Clock* clock,
                             server::Access access)
    : clock_(clock), access_(std::move(access)), thread_began_(ThreadTime()) {
  for (int32_t i = 0; i < connections; ++i) {
    stubs_.push_back(v1::Inference::NewStub(Dial(address, access_)));
  }
}

GrpcTransport::~GrpcTransport() {
  for (const auto& [stream, call] : calls_) call->context.TryCancel();
  StreamEvent event;
  do {
    FinishLast();
  } while (!calls_.empty() && Next(clock_->Now() + kAnswerTimeout, &event));
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

void GrpcTransport::Start(uint64_t stream, const v1::GenerateRequest& request,
                          const std::string& session, Time limit) {
  auto call = std::make_unique<Call>();
  call->stream = stream;
  call->context.set_deadline(After(limit));
  if (!session.empty()) call->context.AddMetadata(kSessionKey, session);
  access_.Authorize(&call->context);
  v1::Inference::Stub* stub = stubs_[started_++ % stubs_.size()].get();
  call->reader = stub->PrepareAsyncGenerate(&call->context, request, &queue_);
  call->reader->StartCall(call.get());
  calls_.emplace(stream, std::move(call));
}

void GrpcTransport::Cancel(uint64_t stream) {
  if (const auto found = calls_.find(stream); found != calls_.end()) {
    found->second->context.TryCancel();
  }
}

bool GrpcTransport::Next(Time until, StreamEvent* event) {
  FinishLast();
  for (;;) {
    const Time wait = until - clock_->Now();
    void* tag = nullptr;
    bool ok = false;
    const auto next = queue_.AsyncNext(&tag, &ok, After(wait - kLastNaps));
    const Time now = clock_->Now();
    if (next == grpc::CompletionQueue::GOT_EVENT) {
      event->at = now;
      if (Advance(static_cast<Call*>(tag), ok, event)) return true;
    } else if (now >= until) {
      return false;
    } else if (until - now < kLastNaps) {
      std::this_thread::sleep_for(std::min(kNap, until - now));
    }
  }
}

// Advances a call after its step. Returns true if `event` is to be returned.
bool GrpcTransport::Advance(Call* call, bool ok, StreamEvent* event) {
  event->stream = call->stream;
  if (call->step == Call::Step::kFinishing) {
    event->message = nullptr;
    event->status = server::FromGrpcStatus(call->status);
    last_ = call;
    return true;
  }
  if (!ok) {
    call->step = Call::Step::kFinishing;
    call->reader->Finish(&call->status, call);
    return false;
  }
  if (call->step == Call::Step::kStarting) {
    call->step = Call::Step::kReading;
    call->reader->Read(&call->message, call);
    return false;
  }
  call->read_next = true;
  event->message = &call->message;
  last_ = call;
  return true;
}

// The caller is done with the event returned last: its stream goes on, or is deleted.
void GrpcTransport::FinishLast() {
  Call* call = std::exchange(last_, nullptr);
  if (call == nullptr) return;
  if (call->read_next) {
    call->read_next = false;
    call->reader->Read(&call->message, call);
  } else {
    calls_.erase(call->stream);
  }
}

Time GrpcTransport::Busy() const { return ThreadTime() - thread_began_; }

}  // namespace strata::load
