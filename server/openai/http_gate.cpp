#include "server/openai/http_gate.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "server/openai/openai_json.h"

namespace strata::server {

HttpGate MakeHttpGate(const GenerationContext& context) {
  static constexpr std::array<std::string_view, 5> kOpenPaths = {"/health", "/healthz", "/metrics",
                                                                 "/ping", "/readyz"};
  if (context.keys == nullptr) return {};
  return [context](const HttpCall& call) -> std::optional<HttpReply> {
    if (std::ranges::find(kOpenPaths, call.path) != kOpenPaths.end()) return std::nullopt;
    const absl::Status status = CheckKey(context, call.request_id, call.authorization);
    if (status.ok()) return std::nullopt;
    return StatusReply(status);
  };
}

}  // namespace strata::server
