#include "server/cli/options.h"

#include <cstdlib>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/cli/option_values.h"

namespace strata::server::options_test {
namespace {

Command Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "strata");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

std::string ErrorOf(const std::vector<const char*>& arguments) {
  const Command command = Parse(arguments);
  const auto* answer = std::get_if<Answer>(&command);
  if (answer == nullptr) return "no error";
  EXPECT_EQ(answer->exit_code, 2);
  EXPECT_EQ(answer->text.find('\n'), std::string::npos) << answer->text;
  return answer->text;
}

// An environment variable for the life of the object.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~ScopedVariable() { unsetenv(name_); }

 private:
  const char* const name_;
};

TEST(OptionsTest, DefaultsAreTheEngines) {
  const auto serve = std::get<ServeOptions>(Parse({"serve"}));
  EXPECT_EQ(serve.model_dir, "");
  EXPECT_EQ(serve.grpc_address, "127.0.0.1:50051");
  EXPECT_EQ(serve.http_address, "127.0.0.1:8000");
  EXPECT_EQ(serve.access_log, "");
  EXPECT_EQ(serve.watchdog, std::chrono::seconds(60));
  EXPECT_EQ(serve.engine.cache_bytes, size_t{64} << 20);
  EXPECT_EQ(serve.engine.block_tokens, 32);
  EXPECT_EQ(serve.drain_timeout, std::chrono::seconds(30));
  EXPECT_EQ(serve.write_timeout, std::chrono::seconds(60));
}

TEST(OptionsTest, ReadsEveryKindOfValue) {
  const auto serve = std::get<ServeOptions>(Parse(
      {"serve", "--model", "m", "--cache-bytes", "1GiB", "--threads", "3", "--weights", "int8",
       "--cross-layer", R"({"preset":"plain"})", "--drain-timeout=1m30s", "--log-level", "debug",
       "--grpc-address", "0.0.0.0:1", "--cache-dtype", "k=int8,v=bf16"}));
  EXPECT_EQ(serve.model_dir, "m");
  EXPECT_EQ(serve.engine.cache_bytes, size_t{1} << 30);
  EXPECT_EQ(serve.engine.threads, 3);
  EXPECT_EQ(serve.engine.weights, "int8");
  EXPECT_EQ(serve.engine.cache_dtype, "k=int8,v=bf16");
  EXPECT_EQ(serve.engine.score_reuse, engine::ScoreReuse::kAuto);
  EXPECT_EQ(serve.engine.cross_layer, R"({"preset":"plain"})");
  EXPECT_EQ(serve.drain_timeout, std::chrono::seconds(90));
  EXPECT_EQ(std::get<ServeOptions>(Parse({"serve", "--http-address", ""})).http_address, "");

  const auto generate = std::get<GenerateOptions>(
      Parse({"generate", "--prompt", "a b", "--temperature", "-1", "--top-k", "-2", "--seed",
             "18446744073709551615", "--json"}));
  EXPECT_EQ(generate.request.text(), "a b");
  EXPECT_EQ(generate.request.temperature(), -1.0F);  // the server's to refuse
  EXPECT_EQ(generate.request.top_k(), -2);
  EXPECT_EQ(generate.request.seed(), ~uint64_t{0});
  EXPECT_FALSE(generate.request.has_max_tokens());
  EXPECT_TRUE(generate.json);
  EXPECT_FALSE(generate.metrics);

  const auto sampled = std::get<GenerateOptions>(Parse({"generate",
                                                        "--prompt",
                                                        "a",
                                                        "--stop",
                                                        "\n\n",
                                                        "--stop",
                                                        "[x,y]",
                                                        "--logit-bias",
                                                        "42=-100",
                                                        "--logit-bias=7=0.5",
                                                        "--n",
                                                        "3",
                                                        "--time-limit",
                                                        "1500ms",
                                                        "--logprobs",
                                                        "0",
                                                        "--repetition-penalty",
                                                        "1.1",
                                                        "--cache-salt",
                                                        "me",
                                                        "--include-stop-string"}));
  EXPECT_THAT(sampled.request.stop(), ::testing::ElementsAre("\n\n", "[x,y]"));
  ASSERT_EQ(sampled.request.logit_bias().size(), 2U);
  EXPECT_EQ(sampled.request.logit_bias().at(42), -100);
  EXPECT_EQ(sampled.request.logit_bias().at(7), 0.5F);
  EXPECT_EQ(sampled.request.n(), 3);
  EXPECT_EQ(sampled.request.time_limit_seconds(), 1.5);
  EXPECT_TRUE(sampled.request.has_logprobs());
  EXPECT_EQ(sampled.request.logprobs(), 0);
  EXPECT_FALSE(sampled.request.has_prompt_logprobs());
  EXPECT_EQ(sampled.request.repetition_penalty(), 1.1F);
  EXPECT_EQ(sampled.request.cache_salt(), "me");
  EXPECT_TRUE(sampled.request.include_stop_string());

  EXPECT_TRUE(std::get<PlanOptions>(Parse({"plan", "--json", "--model", "m"})).json);
  EXPECT_EQ(std::get<PlanOptions>(Parse({"plan", "--cache-dtype", "int8"})).cache_dtype, "int8");
  EXPECT_EQ(std::get<HealthOptions>(Parse({"health", "--service", "x"})).service, "x");
}

TEST(OptionsTest, AnOptionIsAlsoAnEnvironmentVariable) {
  const ScopedVariable bytes("STRATA_CACHE_BYTES", "2MiB");
  const ScopedVariable threads("STRATA_THREADS", "5");
  const auto serve = std::get<ServeOptions>(Parse({"serve", "--threads", "1"}));
  EXPECT_EQ(serve.engine.cache_bytes, size_t{2} << 20);
  EXPECT_EQ(serve.engine.threads, 1);  // the flag wins
  EXPECT_EQ(std::get<PlanOptions>(Parse({"plan"})).cache_bytes, size_t{2} << 20);
  const ScopedVariable seed("STRATA_SEED", "5");
  EXPECT_FALSE(std::get<GenerateOptions>(Parse({"generate", "--prompt", "a"})).request.has_seed());
}

TEST(OptionsTest, AVariableThatNoOptionHasIsNamed) {
  const ScopedVariable misspelt("STRATA_CACHE_BYTE", "2MiB");
  const ScopedVariable of_another_command("STRATA_SERVER", "127.0.0.1:1");
  const ScopedVariable key("STRATA_API_KEY", "secret");
  const ScopedVariable host("STRATA_SERVICE_HOST", "10.0.0.1");
  const ScopedVariable named_port("STRATA_SERVICE_PORT_GRPC", "50051");
  const ScopedVariable port("STRATA_PORT", "tcp://10.0.0.1:50051");
  const ScopedVariable part("STRATA_CPU_PORT_50051_TCP_ADDR", "10.0.0.1");
  EXPECT_EQ(std::get<ServeOptions>(Parse({"serve"})).unknown_variables,
            std::vector<std::string>{"STRATA_CACHE_BYTE"});
}

TEST(OptionsTest, TlsAndKeys) {
  const auto serve = std::get<ServeOptions>(
      Parse({"serve", "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a", "--api-keys",
             "f", "--max-connection-age", "1m", "--max-message-bytes", "1MiB"}));
  EXPECT_EQ(serve.tls.cert + serve.tls.key + serve.tls.client_ca + serve.api_keys, "ckaf");
  EXPECT_EQ(serve.limits.connection_age, std::chrono::minutes(1));
  EXPECT_EQ(serve.limits.message_bytes, size_t{1} << 20);
  EXPECT_EQ(ErrorOf({"serve", "--tls-cert", "c"}),
            "--tls-cert: needs --tls-key, and --tls-key needs --tls-cert");
  EXPECT_EQ(ErrorOf({"serve", "--tls-client-ca", "c"}),
            "--tls-client-ca: needs --tls-cert and --tls-key");
  EXPECT_EQ(std::get<HealthOptions>(Parse({"health", "--tls-ca", "c"})).access.tls_ca, "c");
  const auto key = std::get<KeyOptions>(Parse({"key", "--name", "a", "--concurrent", "3"}));
  EXPECT_EQ(key.concurrent, 3);
  EXPECT_EQ(ErrorOf({"key"}), "--name: whose key is it?");
}

TEST(OptionsTest, AListIsSeparatedByCommasOrRepeated) {
  using Names = std::vector<std::string>;
  const auto names = [](const std::vector<const char*>& arguments) {
    return std::get<ServeOptions>(Parse(arguments)).served_model_names;
  };
  EXPECT_EQ(names({"serve"}), Names());
  EXPECT_EQ(names({"serve", "--served-model-name", ""}), Names());
  EXPECT_EQ(names({"serve", "--served-model-name", "a,org/b , c d"}), (Names{"a", "org/b", "c d"}));
  EXPECT_EQ(names({"serve", "--served-model-name", "a", "--served-model-name=b,c"}),
            (Names{"a", "b", "c"}));
  {
    const ScopedVariable variable("STRATA_SERVED_MODEL_NAME", "x,y");
    EXPECT_EQ(names({"serve"}), (Names{"x", "y"}));
    EXPECT_EQ(names({"serve", "--served-model-name", "a"}), Names{"a"});  // the flag wins
  }
  EXPECT_EQ(
      ErrorOf({"serve", "--served-model-name", "a,"}).rfind("--served-model-name: \"\" is ", 0),
      0U);
  EXPECT_EQ(ErrorOf({"serve", "--served-model-name", "a", "--served-model-name", "b,a"}),
            "--served-model-name: 'a' is given twice");
  EXPECT_EQ(ErrorOf({"serve", "--served-model-name", "a/"}),
            "--served-model-name: \"a/\" is not a name of 1..256 bytes of UTF-8 without control "
            "characters and without a slash at its end");
}

TEST(OptionsTest, OriginsOfPages) {
  const auto serve = std::get<ServeOptions>(
      Parse({"serve", "--cors-origins", "https://a.example, http://localhost:3000"}));
  EXPECT_EQ(serve.cors_origins,
            (std::vector<std::string>{"https://a.example", "http://localhost:3000"}));
  EXPECT_EQ(std::get<ServeOptions>(Parse({"serve", "--cors-origins", "*"})).cors_origins,
            std::vector<std::string>{"*"});
  EXPECT_EQ(ErrorOf({"serve", "--cors-origins", "https://a.example,*"}),
            "--cors-origins: '*' is for any origin; it stands alone");
  EXPECT_EQ(ErrorOf({"serve", "--cors-origins", "https://a.example/"}),
            "--cors-origins: 'https://a.example/' is not * or an origin as browsers write it, such "
            "as https://chat.example.com");
}

TEST(OptionsTest, AVariableIsReadOnlyByItsSubcommand) {
  const ScopedVariable threads("STRATA_THREADS", "many");
  EXPECT_EQ(ErrorOf({"serve"}).rfind("--threads: 'many' is not ", 0), 0U);
  EXPECT_TRUE(std::holds_alternative<PlanOptions>(Parse({"plan"})));
}

TEST(OptionsTest, ABadValueIsOneLineNamingOptionValueAndLimit) {
  EXPECT_EQ(ErrorOf({"serve", "--cache-bytes", "64XB"}),
            "--cache-bytes: '64XB' is not a size such as 64MiB, 1GiB, 500MB or 4096");
  EXPECT_EQ(ErrorOf({"serve", "--block-tokens", "0"}),
            "--block-tokens: '0' is not a whole number in 1..2147483647");
  EXPECT_EQ(ErrorOf({"serve", "--shape", "smollm-135m", "--model", "m"}),
            "--shape: not together with --model");
  EXPECT_EQ(ErrorOf({"serve", "--device", "gpu"}), "--device: 'gpu' is not auto|cpu|cuda");
  EXPECT_EQ(ErrorOf({"serve", "--drain-timeout", "25h"}),
            "--drain-timeout: '25h' is outside 0s..24h");
  for (const char* flag :
       {"--watchdog", "--write-timeout", "--request-timeout", "--handshake-timeout"}) {
    EXPECT_EQ(ErrorOf({"serve", flag, "0s"}), flag + std::string(": '0s' is not at least 1ms"));
  }
  EXPECT_EQ(ErrorOf({"serve", "--max-header-bytes", "0"}),
            "--max-header-bytes: '0' is not in 1KiB..16MiB");
  EXPECT_EQ(ErrorOf({"serve", "--max-header-bytes", "4GiB"}),
            "--max-header-bytes: '4GiB' is not in 1KiB..16MiB");
  EXPECT_EQ(ErrorOf({"key", "--name", "a", "--concurrent", "0"}),
            "--concurrent: 0 is not a whole number above 0");
  EXPECT_EQ(ErrorOf({"key", "--name", "a", "--requests-per-second", "0"}),
            "--requests-per-second: 0 is not a number above 0");
  EXPECT_EQ(ErrorOf({"generate", "--prompt", "a", "--max-tokens", "x"}),
            "--max-tokens: 'x' is not a whole number of 32 bits");
  EXPECT_EQ(ErrorOf({"serve", "--grpc-address", "here:70000"}),
            "--grpc-address: 'here:70000' is not HOST:PORT with a port in 0..65535");
  EXPECT_EQ(ErrorOf({"generate", "--prompt", "a", "--logit-bias", "5"}),
            "--logit-bias: '5' is not ID=BIAS, two numbers");
  EXPECT_EQ(ErrorOf({"generate"}), "--prompt: give either --prompt or --prompt-file");
  EXPECT_EQ(ErrorOf({"generate", "--prompt", "a", "--prompt-file", "b"}),
            "--prompt: give either --prompt or --prompt-file");
  EXPECT_NE(ErrorOf({"serve", "--no-such-flag"}).find("--no-such-flag"), std::string::npos);
  EXPECT_NE(ErrorOf({"serve", "--model"}).find("--model"), std::string::npos);
  EXPECT_NE(ErrorOf({"fly"}).find("fly"), std::string::npos);
  EXPECT_EQ(ErrorOf({}), "a subcommand is needed, such as serve; strata --help shows all");
}

TEST(OptionsTest, HelpAndVersion) {
  const auto version = std::get<Answer>(Parse({"--version"}));
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_EQ(version.text.rfind("strata ", 0), 0U);
  const auto help = std::get<Answer>(Parse({"--help"}));
  EXPECT_EQ(help.exit_code, 0);
  for (const char* name : {"serve", "generate", "plan", "health"}) {
    EXPECT_NE(help.text.find(name), std::string::npos);
    const auto of_command = std::get<Answer>(Parse({name, "--help"}));
    EXPECT_EQ(of_command.exit_code, 0);
    EXPECT_NE(of_command.text.find("--"), std::string::npos);
  }
  const auto serve = std::get<Answer>(Parse({"serve", "--help"}));
  EXPECT_NE(serve.text.find("STRATA_CACHE_BYTES"), std::string::npos);
  EXPECT_NE(serve.text.find("64MiB"), std::string::npos);
}

// Most options are rarely used: help shows them only if asked for all.
TEST(OptionsTest, OptionsForDevelopersShowInHelpAllAlone) {
  const auto shows = [](const char* command, const char* help, const std::string& option) {
    const auto answer = std::get<Answer>(Parse({command, help}));
    EXPECT_EQ(answer.exit_code, 0);
    return answer.text.find("\n  " + option + " ") != std::string::npos;
  };
  for (const char* option : {"--score-reuse", "--max-prefill-chunk", "--priority-ageing",
                             "--grpc-memory", "--handshake-timeout", "--pin-threads"}) {
    EXPECT_FALSE(shows("serve", "--help", option)) << option;
    EXPECT_TRUE(shows("serve", "--help-all", option)) << option;
  }
  EXPECT_FALSE(shows("plan", "--help", "--score-reuse"));
  EXPECT_TRUE(shows("plan", "--help-all", "--score-reuse"));
  for (const char* help : {"--help", "--help-all"}) {
    EXPECT_TRUE(shows("serve", help, "--cache-bytes")) << help;
  }
  EXPECT_EQ(std::get<Answer>(Parse({"--help-all"})).exit_code, 0);
  // Hidden or not, they work, and so do their variables.
  EXPECT_EQ(std::get<ServeOptions>(Parse({"serve", "--score-reuse", "route"})).engine.score_reuse,
            engine::ScoreReuse::kRoute);
  EXPECT_TRUE(std::get<ServeOptions>(Parse({"serve", "--pin-threads", "on"})).engine.pin_threads);
  EXPECT_FALSE(
      std::get<ServeOptions>(Parse({"serve", "--prefix-cache", "off"})).engine.prefix_cache);
  EXPECT_EQ(ErrorOf({"serve", "--prefix-cache", "yes"}), "--prefix-cache: 'yes' is not on|off");
  EXPECT_EQ(ErrorOf({"serve", "--score-reuse", "x"}), "--score-reuse: 'x' is not auto|store|route");
}

TEST(OptionValuesTest, Bytes) {
  EXPECT_EQ(*ParseBytes("0"), 0U);
  EXPECT_EQ(*ParseBytes("4096"), 4096U);
  EXPECT_EQ(*ParseBytes("500MB"), 500'000'000U);
  EXPECT_EQ(*ParseBytes("3KiB"), 3072U);
  EXPECT_EQ(*ParseBytes("2TiB"), size_t{2} << 40);
  for (const char* bad : {"", "MiB", "-1", "1.5GiB", "64M", "64mib", "1 GiB", "9999999999TiB",
                          "99999999999999999999", "0x10"}) {
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  }
  for (const size_t bytes : {size_t{0}, size_t{1000}, size_t{1} << 20, size_t{3} << 29}) {
    EXPECT_EQ(*ParseBytes(FormatBytes(bytes)), bytes);
  }
  EXPECT_EQ(FormatBytes(size_t{64} << 20), "64MiB");
}

TEST(OptionValuesTest, Duration) {
  EXPECT_EQ(*ParseDuration("30s"), std::chrono::seconds(30));
  EXPECT_EQ(*ParseDuration("0"), std::chrono::seconds(0));
  EXPECT_EQ(*ParseDuration("250ms"), std::chrono::milliseconds(250));
  for (const char* bad : {"", "30", "-1s", "25h", "inf", "s"}) {
    EXPECT_FALSE(ParseDuration(bad).ok()) << bad;
  }
  EXPECT_EQ(FormatDuration(std::chrono::minutes(1)), "1m");
}

}  // namespace
}  // namespace strata::server::options_test
