#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "server/cli/access.h"
#include "strata/v1/inference.grpc.pb.h"
#include "tests/load/clock.h"
#include "tests/load/transport.h"

namespace strata::load {

// The model of the server at HOST:PORT. One line if there is no server (UNAVAILABLE), or it does
// not answer within seconds (DEADLINE_EXCEEDED) or does not speak strata.v1 (UNIMPLEMENTED).
absl::StatusOr<v1::Model> AskModel(const std::string& address, const server::Access& access = {});

// Streams over gRPC. The calling thread polls the one completion queue, so that sockets, parsing
// and bookkeeping share a core and a time is taken as soon as a message leaves the queue.
class GrpcTransport final : public Transport {
 public:
  // Streams take turns on `connections` connections. The clock outlives it.
  GrpcTransport(const std::string& address, int32_t connections, Clock* clock,
                server::Access access = {});
  ~GrpcTransport() override;  // ends every stream

  void Start(uint64_t stream, const v1::GenerateRequest& request, const std::string& session,
             Time limit) override;
  void Cancel(uint64_t stream) override;
  bool Next(Time until, StreamEvent* event) override;
  Time Busy() const override;

 private:
  struct Call;
  bool Advance(Call* call, bool ok, StreamEvent* event);
  void FinishLast();

  Clock* const clock_;
  const server::Access access_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;  // one a connection
  grpc::CompletionQueue queue_;
  std::unordered_map<uint64_t, std::unique_ptr<Call>> calls_;
  size_t started_ = 0;
  Call* last_ = nullptr;  // the call of the event returned last; may be null
  const Time thread_began_;
};

}  // namespace strata::load
