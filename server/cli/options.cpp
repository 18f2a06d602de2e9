#include "server/cli/options.h"

#include <algorithm>
#include <string>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/strings/str_cat.h"
#include "server/base/version.h"
#include "server/cli/option_set.h"
#include "server/cli/variables.h"
#include "server/http/cors.h"
#include "server/openai/served_models.h"

namespace strata::server {
namespace {

using Request = v1::GenerateRequest;

constexpr int kUsageError = 2;
constexpr std::chrono::milliseconds kLeastTimeout{1};
constexpr size_t kLeastHeaders = size_t{1} << 10;  // bytes
constexpr size_t kMostHeaders = size_t{16} << 20;

// Options of serve and plan.
void AddModelOptions(OptionSet* set, std::string* model_dir, std::string* cross_layer,
                     std::string* cache_dtype, engine::ScoreReuse* score_reuse, size_t* cache_bytes,
                     int32_t* block_tokens) {
  OptionSet developers = set->ForDevelopers();
  set->Text("--model", "DIR", model_dir, "Model directory; the shipped model if not given");
  set->Text("--cross-layer", "PLAN", cross_layer,
            "JSON, or a name such as svformer, in place of the model's own plan");
  set->Text("--cache-dtype", "auto|f32|bf16|f16|int8|fp8", cache_dtype,
            "Of the cache; auto: as the weights, where those have 8 bits as the checkpoint; "
            "k=int8,v=bf16: of its keys and of its values");
  set->Bytes("--cache-bytes", cache_bytes, "Room for the cache, stored scores included");
  using engine::ScoreReuse;
  developers.Choice<ScoreReuse>(
      "--score-reuse",
      {{"auto", ScoreReuse::kAuto}, {"store", ScoreReuse::kStore}, {"route", ScoreReuse::kRoute}},
      score_reuse,
      "Reused attention scores: kept for later layers, or computed again; auto: what moves fewer "
      "bytes");
  developers.Count("--block-tokens", 1, block_tokens, "Tokens in a block of the cache");
}

// Options of serve and eval.
void AddEngineOptions(OptionSet* set, std::string* model_dir, engine::EngineOptions* engine) {
  AddModelOptions(set, model_dir, &engine->cross_layer, &engine->cache_dtype, &engine->score_reuse,
                  &engine->cache_bytes, &engine->block_tokens);
  set->Choice("--device", {"auto", "cpu", "cuda"}, &engine->device, "What runs the model");
  set->Share("--memory-share", &engine->memory_share,
             "On CUDA, in place of --cache-bytes: of the device's memory, for weights, working "
             "memory and cache together; 0: --cache-bytes says");
  set->Count("--threads", 0, &engine->threads, "On the CPU; 0: one for each core");
  set->ForDevelopers().Bytes(
      "--memory-limit", &engine->memory_limit,
      "On the CPU: refuses to start where weights, cache and workspace are more; 0: what the "
      "cgroup allows");
  set->Choice("--weights", {"auto", "f32", "bf16", "f16", "int8", "fp8"}, &engine->weights,
              "What they are kept as; auto: as the checkpoint; int8, fp8: quantised when loaded; "
              "f16 and fp8 are CUDA's");
}

// Options for callers' credentials, and for limits on one client.
void AddSecurity(OptionSet* set, ServeOptions* options) {
  set->Text("--tls-cert", "FILE", &options->tls.cert,
            "PEM: the certificate of both fronts and those above it; no TLS if not given");
  set->Text("--tls-key", "FILE", &options->tls.key, "PEM: its private key");
  set->Text("--tls-client-ca", "FILE", &options->tls.client_ca,
            "PEM: clients need a certificate of one of these; anybody if not given");
  set->Text("--api-keys", "FILE", &options->api_keys,
            "Whose keys are served, see strata key --help; everybody if not given");
  set->List("--cors-origins", "ORIGIN,..", &options->cors_origins, CheckOrigin,
            "Whose pages may read HTTP's answers in a browser, such as https://chat.example.com; * "
            "for any; none if not given");
  LimitOptions& limits = options->limits;
  OptionSet developers = set->ForDevelopers();
  set->Bytes("--max-message-bytes", &limits.message_bytes,
             "A request's body; 0: ten bytes for each position of the model and 1 MiB");
  developers.Bytes("--max-header-bytes", &limits.header_bytes, "A request's headers", kLeastHeaders,
                   kMostHeaders);
  set->Count("--max-prompt-tokens", 0, &limits.prompt_tokens, "0: what model and cache take");
  developers.Count("--max-streams", 1, &limits.streams, "Calls at a time of one gRPC connection");
  developers.Bytes("--grpc-memory", &limits.grpc_memory,
                   "For gRPC's connections and messages; idle ones are closed when it is short");
  set->Duration("--request-timeout", &limits.request_timeout,
                "An HTTP request has come whole by then, or is given up", kLeastTimeout);
  developers.Duration("--handshake-timeout", &limits.handshake_timeout,
                      "A connection has agreed on TLS and HTTP/2 by then, or is closed",
                      kLeastTimeout);
  set->Duration("--idle-timeout", &limits.idle_timeout,
                "Closes a connection without a request; 0s: never");
  developers.Duration(
      "--max-connection-age", &limits.connection_age,
      "Then a connection takes no more requests, and ends with those it has; 0s: never");
}

// Options of clients of a server.
void AddAccess(OptionSet* set, std::string* server, AccessOptions* access) {
  set->Text("--server", "HOST:PORT", server, "Where the server listens");
  set->Text("--tls-ca", "FILE", &access->tls_ca,
            "PEM: whose servers are trusted; no TLS if not given");
  set->Text("--tls-cert", "FILE", &access->tls_cert, "PEM: the client's own certificate");
  set->Text("--tls-key", "FILE", &access->tls_key, "PEM: its private key");
  set->Text("--tls-server-name", "NAME", &access->tls_server_name,
            "What the server's certificate says, if not the host of its address");
  set->Text("--api-key-file", "FILE", &access->api_key_file,
            "The key to show; that in STRATA_API_KEY if not given");
}

void AddServe(CLI::App* app, ServeOptions* options) {
  OptionSet set(app);
  OptionSet developers = set.ForDevelopers();
  engine::EngineOptions& engine = options->engine;
  AddEngineOptions(&set, &options->model_dir, &engine);
  set.Text("--shape", "NAME", &engine.shape,
           "In place of --model a published shape, such as smollm-135m, with random weights");
  set.Choice<bool>("--generation-config", {{"auto", true}, {"none", false}},
                   &engine.generation_config,
                   "auto: generation_config.json says what a request that says nothing gets");
  set.ListenAddress("--grpc-address", &options->grpc_address,
                    "Where to listen; port 0 picks a free one");
  set.OptionalListenAddress("--http-address", &options->http_address,
                            "The same for HTTP: OpenAI's API, metrics; \"\" for none");
  set.List("--served-model-name", "NAME,..", &options->served_model_names, CheckModelName,
           "What the model is called; the first in answers, any in a request. If not given as its "
           "folder, in Hugging Face's cache as its repository");
  AddSecurity(&set, options);
  set.Count("--max-batch-tokens", 0, &engine.max_batch_tokens,
            "Tokens in one step; 0: 512 on the CPU, 8192 on CUDA");
  developers.Count("--max-prefill-chunk", 0, &engine.max_prefill_chunk,
                   "Of one prompt in one step; 0: the same");
  set.Duration(
      "--max-step-time", &engine.max_step_time,
      "Of a step while answers are written: prompts get what fits, or as many rows; 0s: no "
      "limit");
  set.Count("--max-running", 1, &engine.max_running,
            "Sequences in the batch; no more than --max-batch-tokens in any case");
  set.Count("--max-queue", 1, &engine.max_queue, "Requests waiting to be admitted");
  developers.OnOff(
      "--pin-threads", &engine.pin_threads,
      "On the CPU each thread stays on a core of its own; for a machine that does nothing else");
  set.OnOff("--batch-invariant", &engine.batch_invariant,
            "On CUDA an answer's bits do not depend on what else is in its steps; they never do on "
            "the CPU");
  set.OnOff("--prefix-cache", &engine.prefix_cache,
            "Keep what was computed for prompts that begin alike");
  developers.Duration("--priority-ageing", &engine.priority_ageing,
                      "How much waiting a level of priority is worth");
  set.Duration("--drain-timeout", &options->drain_timeout,
               "What running requests get to finish at SIGTERM");
  set.Duration("--write-timeout", &options->write_timeout,
               "Ends a request whose client reads nothing for this long", kLeastTimeout);
  developers.Duration("--watchdog", &options->watchdog,
                      "Health says NOT_SERVING when work waits and no step ends for this long",
                      kLeastTimeout);
  set.Text("--access-log", "FILE", &options->access_log,
           "A line of JSON for each request; - is stdout; none if not given");
  developers.Text("--trace", "FILE", &options->trace,
                  "A timeline of steps and requests that Perfetto opens; none if not given");
  set.Choice("--log-level", {"trace", "debug", "info", "warn", "error", "off"}, &options->log_level,
             "Of the lines on stderr");
}

void AddSampling(OptionSet* set, Request* request) {
  set->Parameter("--max-tokens", request, &Request::set_max_tokens,
                 "Make at most this many; default: the model's, else 256");
  set->Parameter("--min-tokens", request, &Request::set_min_tokens,
                 "No end before this many; default 0");
  set->Parameter("--temperature", request, &Request::set_temperature,
                 "0 is greedy; default: the model's, else 1");
  set->Parameter("--top-k", request, &Request::set_top_k,
                 "Draw from the k most likely; default: the model's, else 0: all");
  set->Parameter("--top-p", request, &Request::set_top_p,
                 "From the likeliest that sum to p; default: the model's, else 1");
  set->Parameter("--min-p", request, &Request::set_min_p,
                 "From those over p times the likeliest; default: the model's, else 0");
  set->Parameter(
      "--repetition-penalty", request, &Request::set_repetition_penalty,
      "Makes tokens of prompt and output less likely; default: the model's, else 1: as likely");
  set->Parameter("--frequency-penalty", request, &Request::set_frequency_penalty,
                 "Off a token's logit each time it was made; default 0");
  set->Parameter("--presence-penalty", request, &Request::set_presence_penalty,
                 "Off the logit of tokens that were made; default 0");
  set->Parameters<engine::LogitBias>(
      "--logit-bias",
      [request](engine::LogitBias given) {
        (*request->mutable_logit_bias())[given.id] = given.bias;
      },
      "On a token's logit, such as 42=-100; may be repeated");
  set->Parameters<int32_t>(
      "--allowed-token-id", [request](int32_t id) { request->add_allowed_token_ids(id); },
      "Draws only this token id; may be repeated");
  set->Parameters<std::string>(
      "--bad-word", [request](const std::string& word) { request->add_bad_words(word); },
      "The text does not hold this word; may be repeated");
  set->Parameter("--seed", request, &Request::set_seed,
                 "Of the random numbers; drawn if not given");
  set->Parameters<std::string>(
      "--stop", [request](const std::string& text) { request->add_stop(text); },
      "Ends the text before this one; may be repeated");
  set->Switch(
      "--include-stop-string", [request] { request->set_include_stop_string(true); },
      "Ends it after --stop");
  set->Switch(
      "--ignore-eos", [request] { request->set_ignore_eos(true); },
      "Go on past the end of the text");
  set->Switch(
      "--no-special-tokens", [request] { request->set_add_special_tokens(false); },
      "Put none around the prompt, such as a beginning of sequence");
  set->Switch(
      "--keep-special-tokens", [request] { request->set_skip_special_tokens(false); },
      "Show them in the text");
  set->Parameter("--truncate-prompt-tokens", request, &Request::set_truncate_prompt_tokens,
                 "Keep this many of the prompt's last tokens; -1: as many as fit");
}

void AddGenerate(CLI::App* app, GenerateOptions* options) {
  OptionSet set(app);
  AddAccess(&set, &options->server, &options->access);
  Request* const request = &options->request;
  set.Parameter<std::string>(
      "--prompt", [request](const std::string& text) { request->set_text(text); },
      "Text to continue");
  set.Parameter("--prompt-file", &options->prompt_file, "The same from a file; - is stdin");
  AddSampling(&set, request);
  set.Parameter("--logprobs", request, &Request::set_logprobs,
                "With --json: of each token and as many of the likeliest");
  set.Parameter("--prompt-logprobs", request, &Request::set_prompt_logprobs,
                "The same of the prompt's tokens");
  set.Parameter("--n", request, &Request::set_n, "Continue the prompt so many times; default 1");
  set.Parameter("--priority", request, &Request::set_priority, "Lower is served first; default 0");
  set.Parameter<std::chrono::milliseconds>(
      "--time-limit",
      [request](std::chrono::milliseconds limit) {
        request->set_time_limit_seconds(std::chrono::duration<double>(limit).count());
      },
      "Then the text ends as it stands");
  set.Switch(
      "--bypass-prefix-cache", [request] { request->set_bypass_prefix_cache(true); },
      "Neither read nor fill the prefix cache");
  set.Parameter<std::string>(
      "--cache-salt", [request](const std::string& salt) { request->set_cache_salt(salt); },
      "Share cached prefixes with requests of the same salt only");
  set.Switch("--json", &options->json, "Print one JSON object at the end, and no text before");
  set.Switch("--metrics", &options->metrics, "Print the request's metrics after the text");
}

void AddPlan(CLI::App* app, PlanOptions* options) {
  OptionSet set(app);
  AddModelOptions(&set, &options->model_dir, &options->cross_layer, &options->cache_dtype,
                  &options->score_reuse, &options->cache_bytes, &options->block_tokens);
  set.Switch("--json", &options->json, "Print one JSON object");
}

void AddEval(CLI::App* app, EvalOptions* options) {
  OptionSet set(app);
  AddEngineOptions(&set, &options->model_dir, &options->engine);
  set.Text("--text", "FILE", &options->text, "UTF-8");
  set.Count("--window", 0, &options->window,
            "Tokens predicted from those before them; 0: what the model takes, at most 2048");
  set.Count("--tokens", 0, &options->tokens, "Of the text; 0: all");
  set.Switch("--json", &options->json, "Print one JSON object");
}

void AddHealth(CLI::App* app, HealthOptions* options) {
  OptionSet set(app);
  AddAccess(&set, &options->server, &options->access);
  set.Text("--service", "NAME", &options->service,
           "Such as strata.v1.Inference; the server as a whole if not given");
}

void AddKey(CLI::App* app, KeyOptions* options) {
  OptionSet set(app);
  set.Parameter("--name", &options->name, "Whose it is, as the access log will say");
  set.Parameter("--requests-per-second", &options->requests_per_second,
                "That it may make; any number if not given");
  set.Parameter("--concurrent", &options->concurrent,
                "Requests of it that may run at a time; any number if not given");
}

// Checks the options together. Returns the first error; empty if there is none.
std::string CheckServe(const ServeOptions& serve) {
  if (!serve.engine.shape.empty() && !serve.model_dir.empty()) {
    return "--shape: not together with --model";
  }
  if (serve.tls.cert.empty() != serve.tls.key.empty()) {
    return "--tls-cert: needs --tls-key, and --tls-key needs --tls-cert";
  }
  if (serve.tls.cert.empty() && !serve.tls.client_ca.empty()) {
    return "--tls-client-ca: needs --tls-cert and --tls-key";
  }
  const auto& origins = serve.cors_origins;
  if (origins.size() > 1 && std::ranges::find(origins, "*") != origins.end()) {
    return "--cors-origins: '*' is for any origin; it stands alone";
  }
  return "";
}

std::string CheckKey(const KeyOptions& key) {
  if (!key.name) return "--name: whose key is it?";
  if (key.requests_per_second && !(*key.requests_per_second > 0)) {
    return absl::StrCat("--requests-per-second: ", *key.requests_per_second,
                        " is not a number above 0");
  }
  if (key.concurrent && *key.concurrent < 1) {
    return absl::StrCat("--concurrent: ", *key.concurrent, " is not a whole number above 0");
  }
  return "";
}

Answer Wrong(const std::string& text) { return {.exit_code = kUsageError, .text = text}; }

}  // namespace

Command ParseCommandLine(int argc, const char* const* argv) {
  ServeOptions serve;
  GenerateOptions generate;
  PlanOptions plan;
  EvalOptions eval;
  HealthOptions health;
  KeyOptions key;
  CLI::App app(
      "Strata: an inference server for transformers whose layers share keys, values or\n"
      "attention scores. An option --cache-bytes may also be given as the environment\n"
      "variable STRATA_CACHE_BYTES.",
      "strata");
  app.require_subcommand(0, 1);
  app.set_help_all_flag("--help-all", "As --help, with the options for developers");
  app.set_version_flag("--version", absl::StrCat("strata ", Version()));
  CLI::App* serve_app = app.add_subcommand("serve", "Serve a model over gRPC and HTTP");
  CLI::App* generate_app = app.add_subcommand("generate", "Continue a prompt on a server");
  CLI::App* plan_app = app.add_subcommand(
      "plan",
      "Explain what a model's layers share, and what their cache takes on a CPU, where a\n"
      "checkpoint in f16 runs in f32: --cache-dtype f16 for a GPU.");
  CLI::App* eval_app = app.add_subcommand("eval", "Measure a model's perplexity on a text");
  CLI::App* health_app = app.add_subcommand("health", "Exit with 0 if a server is serving");
  CLI::App* key_app = app.add_subcommand(
      "key",
      "Make an API key: prints it, this once, and the line for --api-keys FILE, which\n"
      "holds no more than its hash. The server reads the file again when it changes.");
  AddServe(serve_app, &serve);
  AddGenerate(generate_app, &generate);
  AddPlan(plan_app, &plan);
  AddEval(eval_app, &eval);
  AddHealth(health_app, &health);
  AddKey(key_app, &key);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return Answer{.exit_code = 0, .text = app.help()};
  } catch (const CLI::CallForAllHelp&) {
    ShowAll(&app);
    return Answer{.exit_code = 0, .text = app.help()};
  } catch (const CLI::CallForVersion& version) {
    return Answer{.exit_code = 0, .text = std::string(version.what()) + "\n"};
  } catch (const CLI::ParseError& error) {
    return Wrong(error.what());
  }
  if (serve_app->parsed()) {
    if (std::string wrong = CheckServe(serve); !wrong.empty()) return Wrong(wrong);
    serve.unknown_variables = UnknownVariables(app);
    return serve;
  }
  if (key_app->parsed()) {
    if (std::string wrong = CheckKey(key); !wrong.empty()) return Wrong(wrong);
    return key;
  }
  if (plan_app->parsed()) return plan;
  if (health_app->parsed()) return health;
  if (eval_app->parsed()) {
    if (!eval.text.empty()) return eval;
    return Wrong("--text: a file is needed");
  }
  if (!generate_app->parsed()) {
    return Wrong("a subcommand is needed, such as serve; strata --help shows all");
  }
  if (generate.request.has_text() == generate.prompt_file.has_value()) {
    return Wrong("--prompt: give either --prompt or --prompt-file");
  }
  return generate;
}

}  // namespace strata::server
