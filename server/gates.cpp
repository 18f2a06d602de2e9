#include "server/gates.h"

#include <string>

#include "server/openai_json.h"

namespace strata::server {
namespace {

constexpr std::string_view kHealthService = "/grpc.health.v1.Health/";

absl::Status Check(const GenerationContext& context, std::string_view authorization) {
  absl::Status status = context.keys->Check(authorization);
  if (!status.ok()) RecordRefusal(context, "", status, /*key=*/"");
  return status;
}

}  // namespace

CallGate MakeCallGate(const GenerationContext& context) {
  if (context.keys == nullptr) return {};
  return [context](std::string_view path, std::string_view authorization) {
    if (path.starts_with(kHealthService)) return absl::OkStatus();
    return Check(context, authorization);
  };
}

HttpGate MakeHttpGate(const GenerationContext& context) {
  if (context.keys == nullptr) return {};
  return
      [context](std::string_view path, std::string_view authorization) -> std::optional<HttpReply> {
        if (path == "/healthz" || path == "/readyz" || path == "/metrics") return std::nullopt;
        const absl::Status status = Check(context, authorization);
        if (status.ok()) return std::nullopt;
        return StatusReply(status);
      };
}

}  // namespace strata::server
