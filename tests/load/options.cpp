#include "tests/load/options.h"

#include <cmath>
#include <utility>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "server/cli/option_values.h"

namespace strata::load {
namespace {

constexpr int kUsageError = 2;

// Declares options of types that CLI11 does not read; throws CLI11's error for a wrong text.
class Declarer {
 public:
  explicit Declarer(CLI::App* app) : app_(app) {}

  // `read` takes a text and gives a StatusOr of the value for `store`.
  template <class Read, class Store>
  CLI::Option* Add(const std::string& flag, const std::string& type, const std::string& help,
                   Read read, Store store) {
    const auto checked = [flag, read, store](const std::string& text) {
      auto value = read(text);
      if (!value.ok()) throw CLI::ValidationError(flag, std::string(value.status().message()));
      store(*std::move(value));
    };
    return app_->add_option_function<std::string>(flag, checked, help)->type_name(type);
  }
  void Duration(const std::string& flag, const std::string& help, Milliseconds* value) {
    Add(flag, "DURATION", help, server::ParseDuration, [value](Milliseconds read) {
      *value = read;
    })->default_str(server::FormatDuration(*value));
  }
  void Number(const std::string& flag, const std::string& help, double min, double max,
              double* value) {
    app_->add_option(flag, *value, help)
        ->type_name("NUMBER")
        ->check(CLI::Range(min, max))
        ->capture_default_str();
  }
  template <class Integer>
  void Count(const std::string& flag, const std::string& help, Integer min, Integer max,
             Integer* value) {
    app_->add_option(flag, *value, help)
        ->type_name("COUNT")
        ->check(CLI::Range(min, max))
        ->capture_default_str();
  }
  void Text(const std::string& flag, const std::string& type, const std::string& help,
            std::string* value) {
    app_->add_option(flag, *value, help)->type_name(type)->capture_default_str();
  }

 private:
  CLI::App* const app_;
};

constexpr int32_t kMany = 1'000'000;

void AddSchedule(CLI::App* app, Options* options) {
  Declarer declare(app);
  const auto infinite = std::numeric_limits<double>::infinity();
  declare.Count("--users", "Closed loop: so many users, each with one request at a time", 1, kMany,
                &options->users);
  declare.Number("--rate", "Open loop: talks begun a second; inf: all at once", 1e-6, infinite,
                 &options->rate);
  declare.Number("--burstiness", "Of --rate; 1: Poisson, less: in bursts, inf: constant", 1e-3,
                 infinite, &options->burstiness);
  app->add_option("--ramp-end-rate", options->end_rate, "From --rate to this one in --ramp")
      ->type_name("NUMBER")
      ->check(CLI::Range(1e-6, 1e9));
  app->add_option("--ramp-strategy", options->ramp_strategy, "How the rate changes")
      ->check(CLI::IsMember({"linear", "exponential"}))
      ->capture_default_str();
  declare.Duration("--ramp", "Of the rate, or until all --users have begun", &options->ramp);
  declare.Text("--trace", "FILE",
               "Replay: Azure's CSV, Mooncake's JSON lines, or CSV of seconds,input,output; with "
               "--rate or --users its lengths only",
               &options->trace);
  app->add_flag("--trace-shuffle", options->trace_shuffle,
                "Its requests in an order drawn by --seed, at its moments");
  declare.Number("--trace-speed", "2: twice as fast", 1e-6, 1e9, &options->trace_speed);
  declare.Number("--length-scale", "Times the trace's token counts", 1e-6, 1e6,
                 &options->length_scale);
  declare.Duration("--think", "A user's pause, and a talk's between turns", &options->think);
  declare.Count("--max-concurrency", "In flight; more wait in the client. 0: no limit", 0, kMany,
                &options->max_concurrency);
  declare.Count<int64_t>("--requests", "Send so many; 0: no limit", 0, 1'000'000'000,
                         &options->requests);
  declare.Add("--duration", "DURATION", "Send for so long", server::ParseDuration,
              [options](Milliseconds read) { options->duration = read; });
  declare.Duration("--drain-timeout", "What is in flight at its end has so long to finish",
                   &options->drain);
  declare.Duration("--timeout", "Of a request", &options->timeout);
  declare.Duration("--warm-up", "Not measured", &options->warm_up);
  declare.Duration("--cool-down", "Not measured, before the end of sending", &options->cool_down);
  declare.Count("--repeats", "Of the whole run; figures are means, with their spread", 1, 1000,
                &options->repeats);
  app->add_flag("--sweep", options->sweep,
                "Find the highest rate that is sustained, from --rate on, each for --duration");
  declare.Number("--sweep-good-share", "Sustained: so many keep --goodput", 0, 1,
                 &options->sweep_good_share);
}

void AddRequests(CLI::App* app, Options* options) {
  Declarer declare(app);
  declare.Text("--prompts", "FILE", "A prompt a line; else token ids are drawn", &options->prompts);
  declare.Add("--input-tokens", "LENGTHS",
              "Drawn prompts: 256, uniform:FROM:TO, normal:MEAN:DEVIATION, lognormal:MEDIAN:SIGMA "
              "or exponential:MEAN; default 256",
              Lengths::Parse, [options](const Lengths& read) { options->input = read; });
  declare.Add("--output-tokens", "LENGTHS", "Likewise, of answers; default 128", Lengths::Parse,
              [options](const Lengths& read) { options->output = read; });
  declare.Count("--prefix-groups", "Talks of a group begin alike; 0: none do", 0, kMany,
                &options->prefix_groups);
  declare.Count("--prefix-tokens", "That they begin with", 0, kMany, &options->prefix_tokens);
  declare.Count("--turns", "Of a talk; each prompt holds all that was said", 1, kMany,
                &options->turns);
  app->add_flag("--sessions", options->sessions,
                "Metadata x-strata-session, the same for all requests of a prefix group, else of a "
                "talk: for a load balancer in front of several servers");
  declare.Number("--cancel-share", "Of requests, at a token drawn from the answer's", 0, 1,
                 &options->cancel_share);
  declare
      .Add("--mix", "WEIGHT:FIELD=VALUE,...",
           "A kind of request, such as 0.2:priority=-1,stop=END; may be repeated", ParseVariant,
           [options](Variant read) { options->mix.push_back(std::move(read)); })
      ->trigger_on_parse();
  app->add_option("--temperature", options->temperature,
                  "Of all; the server's default if not given")
      ->type_name("NUMBER");
  app->add_flag("--respect-eos", options->respect_eos,
                "Answers may end early; else they have as many tokens as asked for");
  app->add_option("--seed", options->seed, "Of everything drawn")->capture_default_str();
}

void AddOutput(CLI::App* app, Options* options) {
  Declarer declare(app);
  app->add_option_function<std::vector<std::string>>(
         "--goodput",
         [options](const std::vector<std::string>& pairs) {
           auto slo = ParseSlo(pairs);
           if (!slo.ok()) {
             throw CLI::ValidationError("--goodput", std::string(slo.status().message()));
           }
           options->slo = *slo;
         },
         "What a good request keeps, in ms: ttft:200 tpot:50 e2el:3000")
      ->type_name("NAME:MS")
      ->expected(1, 3);
  declare.Text("--label", "TEXT", "Names the result", &options->label);
  declare.Text("--json", "FILE", "The result, with the keys of vllm bench serve", &options->json);
  declare.Text("--csv", "FILE", "A line a request", &options->csv);
  declare.Text("--html", "FILE", "A page with plots", &options->html);
  app->add_flag("--save-detailed", options->save_detailed,
                "--json has every request's times and text too");
  app->add_flag("--quiet", options->quiet, "No live view");
}

// Checks the options together. Returns the first error; empty if there is none.
std::string Check(const Options& options) {
  if (options.users > 0 && options.rate > 0) return "--users: not together with --rate";
  if (options.sweep && (options.rate <= 0 || std::isinf(options.rate))) {
    return "--sweep: begins at --rate, which is needed";
  }
  if (options.sweep && !options.duration)
    return "--sweep: tries each rate for --duration, which is needed";
  if (options.sweep && options.repeats > 1) return "--sweep: not together with --repeats";
  if (options.sweep && !options.compare.empty()) return "--sweep: not together with --compare";
  if (options.end_rate &&
      (options.rate <= 0 || std::isinf(options.rate) || options.ramp.count() == 0)) {
    return "--ramp-end-rate: needs --rate and --ramp";
  }
  const bool bounded = options.requests > 0 || options.duration;
  const bool endless = options.users > 0 || options.rate > 0;
  if (endless && !bounded) return "--requests: give it, or --duration: the load has no end";
  if (std::isinf(options.rate) && options.requests == 0) {
    return "--requests: needed when --rate is inf";
  }
  if (!options.prompts.empty() && !options.trace.empty()) {
    return "--prompts: not together with --trace";
  }
  if (options.trace_shuffle && options.trace.empty()) return "--trace-shuffle: needs --trace";
  if (options.prefix_groups > 0 && options.prefix_tokens == 0) {
    return "--prefix-tokens: needed with --prefix-groups";
  }
  if (options.duration && options.warm_up + options.cool_down >= *options.duration) {
    return "--warm-up: with --cool-down it takes all of --duration";
  }
  if (!endless && options.trace.empty() && options.compare.empty()) {
    return "--users: give it, --rate or --trace; --help shows all";
  }
  return "";
}

}  // namespace

std::variant<Answer, Options> ParseCommandLine(int argc, const char* const* argv) {
  Options options;
  CLI::App app(
      "Loads a Strata server over gRPC as many users would, and measures what each of them waits\n"
      "for. Latencies run from the moment a request was meant to be sent.",
      "strata-loadtest");
  Declarer declare(&app);
  declare.Text("--server", "HOST:PORT", "Where the server listens for gRPC", &options.server);
  declare.Text("--metrics", "HOST:PORT", "Its HTTP address, for its queue and cache over time",
               &options.metrics);
  declare.Text("--tls-ca", "FILE", "PEM: whose servers are trusted; no TLS if not given",
               &options.access.tls_ca);
  declare.Text("--tls-cert", "FILE", "PEM: the client's own certificate", &options.access.tls_cert);
  declare.Text("--tls-key", "FILE", "PEM: its private key", &options.access.tls_key);
  declare.Text("--tls-server-name", "NAME",
               "What the server's certificate says, if not the host of its address",
               &options.access.tls_server_name);
  declare.Text("--api-key-file", "FILE", "The key to show; that in STRATA_API_KEY if not given",
               &options.access.api_key_file);
  declare.Count("--connections", "To the server; requests take turns", 1, 10000,
                &options.connections);
  app.add_option("--compare", options.compare,
                 "[LABEL=]SERVER[,HTTP] or [LABEL=]RESULT.json, side by side: the same load "
                 "against each server, beside earlier results")
      ->type_name("WHAT")
      ->expected(1, -1);
  AddSchedule(&app, &options);
  AddRequests(&app, &options);
  AddOutput(&app, &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return Answer{.exit_code = 0, .text = app.help()};
  } catch (const CLI::ParseError& error) {
    return Answer{.exit_code = kUsageError, .text = error.what()};
  }
  if (std::string wrong = Check(options); !wrong.empty()) {
    return Answer{.exit_code = kUsageError, .text = std::move(wrong)};
  }
  return options;
}

}  // namespace strata::load
