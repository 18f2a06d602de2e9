#include "server/grpc/grpc_server.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "kvcache/base/errors.h"
#include "spdlog/spdlog.h"
#include "strata/v1/inference.pb.h"

namespace strata::server {
namespace {

// Limits warnings, so that clients cannot fill the log.
constexpr std::chrono::seconds kWarnings{10};

// The highest descriptor that a connection may have.
int MaxDescriptor() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return std::numeric_limits<int>::max();
  return static_cast<int>(
      std::min<rlim_t>(files.rlim_cur / 4 * 3, std::numeric_limits<int>::max()));
}

// Allows clients' pings every 10 to 30 s, even without a call, and notices vanished clients.
void SetKeepalive(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
}

void SetLimits(const GrpcOptions& options, grpc::ServerBuilder* builder) {
  const auto milliseconds = [](std::chrono::milliseconds limit) {
    return limit.count() == 0 ? std::numeric_limits<int>::max() : static_cast<int>(limit.count());
  };
  builder->SetMaxReceiveMessageSize(static_cast<int>(options.max_receive_bytes));
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder->SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(options.header_limit));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS,
                              milliseconds(options.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, milliseconds(options.idle_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, milliseconds(options.max_age));
  grpc::ResourceQuota quota("strata");
  builder->SetResourceQuota(quota.Resize(options.memory));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcOptions& options,
                                                              grpc::Service* service) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  auto acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, options.credentials);
  SetKeepalive(&builder);
  SetLimits(options, &builder);
  builder.RegisterService(service);
  std::unique_ptr<grpc::Server> built = builder.BuildAndStart();
  if (!built) return absl::UnavailableError("gRPC does not start");
  built->GetHealthCheckService()->SetServingStatus(
      v1::GenerateRequest::descriptor()->file()->service(0)->full_name(), true);
  std::unique_ptr<GrpcServer> server(
      new GrpcServer(options.credentials, std::move(acceptor), std::move(built)));
  ASSIGN_OR_RETURN(auto loop,
                   AcceptLoop::Start(options.address, AcceptLoop::Mode::kNonBlocking,
                                     [self = server.get()](int socket) { self->Take(socket); }));
  server->loop_ = std::move(loop);
  return server;
}

GrpcServer::GrpcServer(std::shared_ptr<grpc::ServerCredentials> credentials,
                       std::unique_ptr<Acceptor> acceptor, std::unique_ptr<grpc::Server> server)
    : credentials_(std::move(credentials)),
      acceptor_(std::move(acceptor)),
      server_(std::move(server)),
      max_descriptor_(MaxDescriptor()) {}

// Descriptors are given out lowest first: a high one means that there are many.
void GrpcServer::Take(int socket) {
  if (socket <= max_descriptor_) {
    Acceptor::NewConnectionParameters connection;
    connection.fd = socket;
    acceptor_->HandleNewConnection(&connection);
    return;
  }
  close(socket);
  const auto now = std::chrono::steady_clock::now();
  if (now < next_warning_) return;
  next_warning_ = now + kWarnings;
  spdlog::warn("grpc: over {} files are open, a connection was refused", max_descriptor_);
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void GrpcServer::Shutdown(std::chrono::milliseconds limit) {
  if (loop_) loop_->Stop();
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
