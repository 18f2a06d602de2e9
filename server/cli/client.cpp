#include "server/cli/client.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace strata::server {
namespace {

constexpr std::chrono::seconds kConnectTimeout{3};
constexpr int kMaxMessageBytes = 256 << 20;

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const std::string& address,
                                                       const Access& access) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // the server is in one's own network
  auto channel = access.Dial(address, arguments);
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  for (auto state = channel->GetState(/*try_to_connect=*/true); state != GRPC_CHANNEL_READY;
       state = channel->GetState(/*try_to_connect=*/true)) {
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE) {
      return absl::UnavailableError(absl::StrCat(
          "no server at ", address,
          access.over_tls() ? ": cannot connect, or no TLS is agreed: does it serve TLS, under a "
                              "name and by an authority that are expected?"
                            : ": cannot connect; start one with strata serve"));
    }
    if (!channel->WaitForStateChange(state, deadline)) {
      return absl::UnavailableError(
          absl::StrCat("no server at ", address, ": no answer in ", kConnectTimeout.count(), " s"));
    }
  }
  return channel;
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  if (code == absl::StatusCode::kCancelled) return absl::CancelledError("cancelled");
  const std::string message = absl::StrReplaceAll(status.error_message(), {{"\n", " "}});
  return {code, absl::StrCat(absl::StatusCodeToString(code), ": ", message)};
}

}  // namespace strata::server
