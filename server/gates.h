#pragma once

#include "server/generation/generation.h"
#include "server/grpc/grpc_credentials.h"
#include "server/http/http_server.h"

// Who gets past the door of each front where keys are asked for: whoever has one, and everybody to
// what tells of the server's health (gRPC's health service; /health, /healthz, /ping, /readyz and
// /metrics), which probes and scrapers without keys ask for. Refusals are counted and logged.
namespace strata::server {

// Of `context` keys, metrics, log and front are used, which outlive the gate. Empty, for no gate,
// where there are no keys.
CallGate MakeCallGate(const GenerationContext& context);
HttpGate MakeHttpGate(const GenerationContext& context);

}  // namespace strata::server
