#pragma once

#include "server/generation/generation.h"
#include "server/grpc/grpc_credentials.h"

namespace strata::server {

// Lets in calls with a known key, and all calls of gRPC's health service, for probes without keys.
// Counts and logs refusals. Empty if the context has no keys. Uses keys, metrics and log of
// `context`, which must outlive the gate.
CallGate MakeCallGate(const GenerationContext& context);

}  // namespace strata::server
