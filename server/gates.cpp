#include "server/gates.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "server/openai/openai_json.h"

namespace strata::server {
namespace {

constexpr std::string_view kHealthService = "/grpc.health.v1.Health/";

// Paths that tell of the server's health need no key.
constexpr std::array<std::string_view, 5> kOpenPaths = {"/health", "/healthz", "/metrics", "/ping",
                                                        "/readyz"};

absl::Status Check(const GenerationContext& context, const std::string& request_id,
                   std::string_view authorization) {
  absl::Status status = context.keys->Check(authorization);
  if (!status.ok()) RecordRefusal(context, request_id, status, /*key=*/"");
  return status;
}

}  // namespace

CallGate MakeCallGate(const GenerationContext& context) {
  if (context.keys == nullptr) return {};
  return [context](std::string_view path, std::string_view authorization) {
    if (path.starts_with(kHealthService)) return absl::OkStatus();
    return Check(context, /*request_id=*/"", authorization);
  };
}

HttpGate MakeHttpGate(const GenerationContext& context) {
  if (context.keys == nullptr) return {};
  return [context](const HttpCall& call) -> std::optional<HttpReply> {
    if (std::ranges::find(kOpenPaths, call.path) != kOpenPaths.end()) return std::nullopt;
    const absl::Status status = Check(context, call.request_id, call.authorization);
    if (status.ok()) return std::nullopt;
    return StatusReply(status);
  };
}

}  // namespace strata::server
