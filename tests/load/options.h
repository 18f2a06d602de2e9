#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "server/cli/access.h"
#include "tests/load/lengths.h"
#include "tests/load/statistics.h"
#include "tests/load/workload.h"

namespace strata::load {

using Milliseconds = std::chrono::milliseconds;

// The command line of strata-loadtest, in the manner of `vllm bench serve`.
struct Options {
  std::string server = "127.0.0.1:50051";
  std::string metrics;           // the server's HTTP address; empty: not scraped
  server::AccessOptions access;  // of every server
  int32_t connections = 8;
  std::vector<std::string> compare;  // "[LABEL=]WHAT": servers, each like "HOST:PORT[,HTTP]", and
                                     // earlier results, in place of --server

  // One of: users, rate, trace.
  int32_t users = 0;
  double rate = 0;
  double burstiness = 1;
  std::optional<double> end_rate;
  std::string ramp_strategy = "linear";  // exponential
  Milliseconds ramp{};
  std::string trace;
  bool trace_shuffle = false;
  double trace_speed = 1;
  double length_scale = 1;
  Milliseconds think{};
  int32_t max_concurrency = 0;

  int64_t requests = 0;
  std::optional<Milliseconds> duration;
  Milliseconds drain{30000};
  Milliseconds timeout{600000};
  Milliseconds warm_up{};
  Milliseconds cool_down{};
  int32_t repeats = 1;
  bool sweep = false;
  double sweep_good_share = 0.9;

  std::string prompts;  // a file
  std::optional<Lengths> input;
  std::optional<Lengths> output;
  int32_t prefix_groups = 0;
  int32_t prefix_tokens = 0;
  int32_t turns = 1;
  bool sessions = false;
  double cancel_share = 0;
  std::vector<Variant> mix;
  std::optional<float> temperature;
  bool respect_eos = false;
  uint64_t seed = 0;

  Slo slo;
  std::string label;
  std::string json, csv, html;  // files; empty: none
  bool save_detailed = false;
  bool quiet = false;
};

// Reply to a command line that starts no run.
struct Answer {
  int exit_code = 0;  // 2 on an error
  std::string text;
};

// Never exits and never prints.
std::variant<Answer, Options> ParseCommandLine(int argc, const char* const* argv);

}  // namespace strata::load
