#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/serve/engine.h"
#include "server/security/tls.h"

// Options of `strata serve`.
namespace strata::server {

// Limits on clients, beside the server's queue and cache.
struct LimitOptions {
  size_t message_bytes = 0;  // of a request; 0: ten bytes for each position of the model and 1 MiB
  size_t header_bytes = size_t{16} << 10;            // of a request's headers
  int32_t prompt_tokens = 0;                         // 0: the limit of model and cache
  int32_t streams = 1024;                            // calls at a time of one gRPC connection
  size_t grpc_memory = size_t{1} << 30;              // for connections, and messages on their way
  std::chrono::milliseconds request_timeout{30000};  // until a whole HTTP request has arrived
  std::chrono::milliseconds handshake_timeout{10000};
  std::chrono::milliseconds idle_timeout{300000};  // of a connection; 0: none
  std::chrono::milliseconds connection_age{};      // 0: any
};

struct ServeOptions {
  std::string model_dir;  // empty: the default model
  // Without its model_dir. A step has a time limit, as people read along.
  engine::EngineOptions engine = {.model_dir = {}, .max_step_time = std::chrono::milliseconds(100)};
  std::string grpc_address = "127.0.0.1:50051";
  std::string http_address = "127.0.0.1:8000";       // empty: no HTTP
  std::vector<std::string> served_model_names = {};  // the first in answers; empty: the engine's
  TlsFiles tls = {};
  std::string api_keys = {};                   // a file; empty: every caller may ask
  std::vector<std::string> cors_origins = {};  // as CheckOrigin requires (server/http/cors.h)
  LimitOptions limits = {};
  std::chrono::milliseconds drain_timeout{30000};
  std::chrono::milliseconds write_timeout{60000};
  std::chrono::milliseconds watchdog{60000};
  std::string access_log = {};  // a file, "-" for stdout; empty: none
  std::string trace = {};       // a file; empty: none
  std::string log_level = "info";
  std::vector<std::string> unknown_variables = {};  // STRATA_ variables without an option
};

}  // namespace strata::server
