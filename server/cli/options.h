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
#include "server/serve_options.h"
#include "strata/v1/inference.pb.h"

// The command line. Each option exists once: the flag --cache-bytes is the environment variable
// STRATA_CACHE_BYTES, the flag wins. Options of one request (a prompt, its parameters) and of
// printing have no variable.
namespace strata::server {

struct GenerateOptions {
  std::string server = "127.0.0.1:50051";
  AccessOptions access;
  v1::GenerateRequest request;             // without a prompt if that is in a file
  std::optional<std::string> prompt_file;  // "-": standard input
  bool json = false;
  bool metrics = false;
};

struct PlanOptions {
  std::string model_dir;  // empty: the default model
  std::string cross_layer;
  engine::ScoreReuse score_reuse = engine::ScoreReuse::kAuto;
  std::string cache_dtype = "auto";
  size_t cache_bytes = engine::EngineOptions{}.cache_bytes;
  int32_t block_tokens = engine::EngineOptions{}.block_tokens;
  bool json = false;
};

// Measures how well a model predicts a text, in windows that each begin anew.
struct EvalOptions {
  std::string model_dir;         // empty: the default model
  engine::EngineOptions engine;  // without its model_dir
  std::string text;              // a file
  int32_t window = 0;            // tokens; 0: the model's limit, at most 2048
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

// Reply to a command line that runs nothing: help, a version, or an error.
struct Answer {
  int exit_code = 0;  // 2 on an error
  std::string text;   // for stdout, or for stderr as "strata: text"
};

using Command = std::variant<Answer, ServeOptions, GenerateOptions, PlanOptions, EvalOptions,
                             HealthOptions, KeyOptions>;

// Never exits and never prints.
Command ParseCommandLine(int argc, const char* const* argv);

}  // namespace strata::server
