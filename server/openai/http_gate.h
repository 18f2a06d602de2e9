#pragma once

#include "server/generation/generation.h"
#include "server/http/http_server.h"

namespace strata::server {

// Lets in requests with a known key, and all requests for the server's health (/health, /healthz,
// /ping, /readyz, /metrics), for probes and scrapers without keys. Counts and logs refusals. Empty
// if the context has no keys. Uses keys, metrics and log of `context`, which must outlive the gate.
HttpGate MakeHttpGate(const GenerationContext& context);

}  // namespace strata::server
