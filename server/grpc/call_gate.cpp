#include "server/grpc/call_gate.h"

#include <string_view>

namespace strata::server {

CallGate MakeCallGate(const GenerationContext& context) {
  if (context.keys == nullptr) return {};
  return [context](std::string_view path, std::string_view authorization) {
    if (path.starts_with("/grpc.health.v1.Health/")) return absl::OkStatus();
    return CheckKey(context, /*request_id=*/"", authorization);
  };
}

}  // namespace strata::server
