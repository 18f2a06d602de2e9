#include <chrono>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kvcache/base/errors.h"
#include "server/cli/client.h"
#include "server/cli/commands.h"
#include "server/cli/standard_output.h"
#include "server/grpc/grpc_server.h"

namespace strata::server {
namespace {

namespace health = grpc::health::v1;

constexpr std::chrono::seconds kAnswerTimeout{3};

}  // namespace

absl::Status RunHealth(const HealthOptions& options) {
  RouteLibraryLogs();
  ASSIGN_OR_RETURN(const auto access, Access::Open(options.access));
  ASSIGN_OR_RETURN(const auto channel, Connect(options.server, access));
  const auto stub = health::Health::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerTimeout);
  health::HealthCheckRequest request;
  request.set_service(options.service);
  health::HealthCheckResponse response;
  RETURN_IF_ERROR(FromGrpcStatus(stub->Check(&context, request, &response)));
  const std::string& answer = health::HealthCheckResponse::ServingStatus_Name(response.status());
  if (response.status() != health::HealthCheckResponse::SERVING) {
    return absl::UnavailableError(absl::StrCat(options.server, " answers ", answer));
  }
  return WriteToStdout(answer + "\n");
}

}  // namespace strata::server
