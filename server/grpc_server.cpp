#include "server/grpc_server.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/listen_address.h"
#include "spdlog/spdlog.h"
#include "strata/v1/inference.pb.h"

namespace strata::server {
namespace {

// Clients ping every 10 to 30 s, also without a call; a client that has vanished is noticed.
void SetKeepalive(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const std::string& address,
                                                              size_t max_receive_bytes,
                                                              grpc::Service* service) {
  const auto listen = ListenAddress::Parse(address);
  if (!listen.ok()) return listen.status();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error
  SetKeepalive(&builder);
  builder.SetMaxReceiveMessageSize(static_cast<int>(max_receive_bytes));
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (!server || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address, ": ", listen->WhyNotBound()));
  }
  server->GetHealthCheckService()->SetServingStatus(
      v1::GenerateRequest::descriptor()->file()->service(0)->full_name(), true);
  return std::unique_ptr<GrpcServer>(
      new GrpcServer(std::move(server), absl::StrCat(listen->host, ":", port)));
}

GrpcServer::GrpcServer(std::unique_ptr<grpc::Server> server, std::string address)
    : server_(std::move(server)), address_(std::move(address)) {}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void GrpcServer::Shutdown(std::chrono::milliseconds limit) {
  server_->Shutdown(std::chrono::system_clock::now() + limit);
  server_->Wait();
}

void RouteLibraryLogs() {
  gpr_set_log_function([](gpr_log_func_args* line) {
    spdlog::debug("grpc: {}:{}: {}", line->file, line->line, line->message);
  });
  google::protobuf::SetLogHandler(
      [](google::protobuf::LogLevel, const char* file, int line, const std::string& message) {
        spdlog::debug("protobuf: {}:{}: {}", file, line, message);
      });
}

}  // namespace strata::server
