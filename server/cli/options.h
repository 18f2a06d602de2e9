#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "engine/serve/engine.h"
#include "server/cli/access.h"
#include "server/security/tls.h"

// The command line. Each option stands once: the flag --cache-bytes is the environment variable
// STRATA_CACHE_BYTES, the flag wins. What describes one request (a prompt, its parameters) and how
// to print has no variable.
namespace strata::server {

// What clients may take of a server, beside its queue and its cache.
struct LimitOptions {
  size_t message_bytes = 0;  // of a request; 0: ten bytes for each position of the model and 1 MiB
  size_t header_bytes = size_t{16} << 10;            // of a request's headers
  int32_t prompt_tokens = 0;                         // 0: what model and cache take
  int32_t streams = 1024;                            // calls at a time of one gRPC connection
  size_t grpc_memory = size_t{1} << 30;              // for connections, and messages on their way
  std::chrono::milliseconds request_timeout{30000};  // until an HTTP request is there whole
  std::chrono::milliseconds handshake_timeout{10000};
  std::chrono::milliseconds idle_timeout{300000};  // of a connection; 0: none
  std::chrono::milliseconds connection_age{};      // 0: any
};

struct ServeOptions {
  std::string model_dir;  // empty: the default model
  // But its model_dir. Somebody reads along: a step has a limit.
  engine::EngineOptions engine = {.model_dir = {}, .max_step_time = std::chrono::milliseconds(100)};
  std::string grpc_address = "127.0.0.1:50051";
  std::string http_address = "127.0.0.1:8000";       // empty: no HTTP
  std::vector<std::string> served_model_names = {};  // the first in answers; none: the engine's
  TlsFiles tls = {};
  std::string api_keys = {};                   // a file; empty: everybody may ask
  std::vector<std::string> cors_origins = {};  // as server/http/cors.h has them
  LimitOptions limits = {};
  std::string prefix_cache = "on";      // on, off
  std::string pin_threads = "off";      // on, off
  std::string batch_invariant = "off";  // on, off
  std::chrono::milliseconds drain_timeout{30000};
  std::chrono::milliseconds write_timeout{60000};
  std::chrono::milliseconds watchdog{60000};
  std::string access_log = {};  // a file, "-" for stdout; empty: none
  std::string trace = {};       // a file; empty: none
  std::string log_level = "info";
  std::vector<std::string> unknown_variables = {};  // STRATA_ something that no option has
};

struct GenerateOptions {
  std::string server = "127.0.0.1:50051";
  AccessOptions access;
  std::optional<std::string> prompt;       // exactly one of these two
  std::optional<std::string> prompt_file;  // "-": standard input
  std::optional<int32_t> max_tokens;
  std::optional<int32_t> min_tokens;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<float> frequency_penalty;
  std::optional<float> presence_penalty;
  std::vector<engine::LogitBias> logit_bias;
  std::vector<int32_t> allowed_token_ids;
  std::vector<std::string> bad_words;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool include_stop_string = false;
  bool ignore_eos = false;
  bool no_special_tokens = false;    // around the prompt
  bool keep_special_tokens = false;  // in the text
  std::optional<int32_t> truncate_prompt_tokens;
  std::optional<int32_t> logprobs;
  std::optional<int32_t> prompt_logprobs;
  std::optional<int32_t> n;
  std::optional<int32_t> priority;
  std::optional<std::chrono::milliseconds> time_limit;
  bool bypass_prefix_cache = false;
  std::optional<std::string> cache_salt;
  bool json = false;
  bool metrics = false;
};

struct PlanOptions {
  std::string model_dir;  // empty: the default model
  std::string cross_layer;
  std::string score_reuse = "auto";
  std::string cache_dtype = "auto";
  size_t cache_bytes = engine::EngineOptions{}.cache_bytes;
  int32_t block_tokens = engine::EngineOptions{}.block_tokens;
  bool json = false;
};

// How well a model predicts a text, in windows that each begin anew.
struct EvalOptions {
  std::string model_dir;         // empty: the default model
  engine::EngineOptions engine;  // but its model_dir
  std::string text;              // a file
  int32_t window = 0;            // tokens; 0: what the model takes, at most 2048
  int32_t tokens = 0;            // of the text; 0: all
  bool json = false;
};

struct HealthOptions {
  std::string server = "127.0.0.1:50051";
  AccessOptions access;
  std::string service;  // empty: the server as a whole
};

// A new key, and its line for the key file.
struct KeyOptions {
  std::optional<std::string> name;
  std::optional<float> requests_per_second;
  std::optional<int32_t> concurrent;
};

// The command line asks for nothing more than this: help, a version, or what is wrong with it.
struct Answer {
  int exit_code = 0;  // 2 when something is wrong
  std::string text;   // for stdout, or for stderr as "strata: text"
};

using Command = std::variant<Answer, ServeOptions, GenerateOptions, PlanOptions, EvalOptions,
                             HealthOptions, KeyOptions>;

// Never exits and never prints.
Command ParseCommandLine(int argc, const char* const* argv);

}  // namespace strata::server
