// A client's output of its sequences: text cut at stop strings, logprobs, several sequences. Some
// tests give a generation its tokens in place of the engine.
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "server/grpc/grpc_messages.h"
#include "server/openai/openai_request.h"
#include "server/text/detokenizer.h"
#include "strata/v1/inference.pb.h"
#include "tests/server/generation_testing.h"
#include "tests/server/metrics_text.h"

namespace strata::testing::generation_output_test {
namespace {

using engine::FinishReason;
using std::chrono::milliseconds;

class GenerationOutputTest : public GenerationTest {
 protected:
  // The text of the first `count` of `ids`, by a separate detokenizer.
  std::string TextOf(const std::vector<int32_t>& ids, size_t count) const {
    server::Detokenizer detokenizer(tokenizer_.get());
    detokenizer.Prime(std::vector<int32_t>{'a' + 1});
    return detokenizer.Append({ids.data(), count});
  }

  // A generation that the test drives in the engine's place.
  std::shared_ptr<server::Generation> MakeUnstarted(server::GenerationRequest request,
                                                    RecordingClient* client) {
    auto generation = server::Generation::Create(context_, std::move(request), client);
    EXPECT_TRUE(generation.ok()) << generation.status();
    client->Attach(*generation);
    return *generation;
  }

  static void Say(server::Generation* generation, int32_t index, const std::string& bytes) {
    for (const char byte : bytes) {
      engine::TokenEvent event = {.index = index, .token = static_cast<unsigned char>(byte) + 1};
      event.logprobs = engine::TokenLogprobs{.logprob = -1, .rank = event.token, .top = {}};
      generation->OnToken(event);
    }
  }
  static void End(server::Generation* generation, int32_t index, FinishReason reason,
                  const absl::Status& status, int32_t generated) {
    engine::FinishedEvent event = {
        .index = index, .reason = reason, .status = status, .metrics = {}};
    event.metrics.generated_tokens = generated;
    generation->OnFinished(event);
  }
};

TEST_F(GenerationOutputTest, AStopStringEndsTheOutputWhereverItsTokensStand) {
  RecordingClient whole(/*prompt_reader=*/true);
  MustStart(Text("a", 60), &whole);
  ASSERT_TRUE(whole.WaitFor("closed"));
  int checked = 0;
  for (size_t first = 0; first + 3 < whole.ids.size(); first += 5) {
    // The text of some tokens from the middle, which may also occur earlier.
    const std::string before = TextOf(whole.ids, first);
    const std::string upto = TextOf(whole.ids, first + 3);
    const std::string stop = upto.substr(before.size());
    if (stop.empty()) continue;
    ++checked;
    const size_t begin = whole.text.find(stop);
    size_t count = 1;
    while (TextOf(whole.ids, count).find(stop) == std::string::npos) ++count;
    for (const bool include : {false, true}) {
      RecordingClient client(/*prompt_reader=*/true);
      server::GenerationRequest request = Text("a", 60);
      request.stop = {"not in the text at all", stop};
      request.include_stop_string = include;
      MustStart(request, &client);
      ASSERT_TRUE(client.WaitFor("closed"));
      EXPECT_TRUE(client.status.ok()) << client.status;
      EXPECT_EQ(client.text, whole.text.substr(0, begin + (include ? stop.size() : 0)));
      EXPECT_EQ(client.ids, std::vector(whole.ids.begin(),
                                        whole.ids.begin() + static_cast<std::ptrdiff_t>(count)));
      EXPECT_EQ(client.finished.reason, FinishReason::kStop);
      EXPECT_EQ(client.finished.metrics.generated_tokens, static_cast<int32_t>(count));
    }
  }
  EXPECT_GT(checked, 3);
  engine_->Shutdown(std::chrono::seconds(60));
  EXPECT_EQ(engine_->load().blocks_used, 0);
}

TEST_F(GenerationOutputTest, AStopStringStopsTheEngine) {
  RecordingClient free(/*prompt_reader=*/true);
  MustStart(Text("a", 8), &free);
  ASSERT_TRUE(free.WaitFor("closed"));
  RecordingClient client(/*prompt_reader=*/false);  // reads nothing more after the stop
  server::GenerationRequest request = Text("a", 500);
  request.stop = {free.text.substr(0, server::ReadUtf8(free.text, 0).size)};
  const auto generation = MustStart(request, &client);
  ASSERT_TRUE(client.WaitFor("started"));
  generation->Resume();
  ASSERT_TRUE(client.WaitFor("delta"));
  while (engine_->load().running > 0) std::this_thread::sleep_for(milliseconds(1));
  generation->Resume();
  ASSERT_TRUE(client.WaitFor("finished"));
  generation->Resume();
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_TRUE(client.status.ok()) << client.status;
  EXPECT_EQ(client.text, "");
  // It has ended normally, for the metrics too, not because the client left.
  const std::string text = metrics_.Render();
  EXPECT_EQ(ValueOf(text, "strata_sequences_finished_total{reason=\"stop\"}"), "1");
  EXPECT_EQ(ValueOf(text, "strata_request_seconds_count"), "2");
  EXPECT_EQ(ValueOf(text, "strata_abort_seconds_count"), "0");
}

TEST_F(GenerationOutputTest, TokensAfterAStopStringAreNotCounted) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("a", 20);
  request.stop = {"x"};
  request.n = 2;
  const auto generation = MakeUnstarted(request, &client);
  generation->OnStarted({.prompt_tokens = 1});
  Say(generation.get(), 0, "abx");
  Say(generation.get(), 0, "cde");
  Say(generation.get(), 1, "12345");
  while (client.NumTold("delta") < 2) std::this_thread::sleep_for(milliseconds(1));
  Say(generation.get(), 0, "fgh");  // made before the engine has seen the stop
  End(generation.get(), 0, FinishReason::kCancelled, absl::CancelledError(""), 9);
  End(generation.get(), 1, FinishReason::kLength, absl::OkStatus(), 5);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.sequences[0].ids.size(), 3U);
  EXPECT_EQ(client.sequences[0].finished.metrics.generated_tokens, 3);
  EXPECT_EQ(client.sequences[1].ids.size(), 5U);
  EXPECT_EQ(ValueOf(metrics_.Render(), "strata_generated_tokens_total"), "8");
}

TEST_F(GenerationOutputTest, StopStringsWaitForMinTokens) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("a", 20);
  request.sampling.min_tokens = 5;
  request.stop = {"x"};
  const auto generation = MakeUnstarted(request, &client);
  generation->OnStarted({.prompt_tokens = 1});
  Say(generation.get(), 0, "axbcdefxgh");
  End(generation.get(), 0, FinishReason::kLength, absl::OkStatus(), 10);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.text, "axbcdef");
  EXPECT_EQ(client.ids.size(), 8U);
  EXPECT_EQ(client.sequences[0].logprobs.size(), 8U);
  EXPECT_EQ(client.sequences[0].logprobs[7].rank, 'x' + 1);
  EXPECT_EQ(client.finished.metrics.generated_tokens, 8);
}

TEST_F(GenerationOutputTest, WhatOnlyLooksLikeAStopStringComesWithTheEnd) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("a", 20);
  request.stop = {"END"};
  const auto generation = MakeUnstarted(request, &client);
  generation->OnStarted({.prompt_tokens = 1});
  Say(generation.get(), 0, "the EN");
  End(generation.get(), 0, FinishReason::kStop, absl::OkStatus(), 6);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.text, "the EN");
  EXPECT_EQ(client.ids.size(), 6U);
}

TEST_F(GenerationOutputTest, EachSequenceHasItsOwnText) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("ab", 20);
  request.n = 3;
  request.stop = {"--"};
  const auto generation = MakeUnstarted(request, &client);
  generation->OnStarted({.prompt_tokens = 2});
  generation->OnPromptLogprobs({engine::TokenLogprobs{.logprob = -2, .rank = 7, .top = {}}});
  // Characters and stop strings that are interrupted by another sequence's deltas.
  Say(generation.get(), 1, "caf\xC3");
  Say(generation.get(), 0, "zero-");
  Say(generation.get(), 2, "two -");
  Say(generation.get(), 1, "\xA9");
  Say(generation.get(), 0, "-zero");
  End(generation.get(), 1, FinishReason::kLength, absl::OkStatus(), 5);
  Say(generation.get(), 2, "> end");
  End(generation.get(), 2, FinishReason::kTimeLimit, absl::OkStatus(), 10);
  while (client.NumTold("finished") < 2) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(client.NumTold("closed"), 0);  // the engine has not ended the first sequence yet
  End(generation.get(), 0, FinishReason::kCancelled, absl::CancelledError(""), 10);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_TRUE(client.status.ok()) << client.status;
  EXPECT_EQ(client.told[0], "started");
  EXPECT_EQ(client.told[1], "prompt logprobs");
  ASSERT_EQ(client.prompt_logprobs.size(), 1U);
  EXPECT_EQ(client.prompt_logprobs[0].rank, 7);
  EXPECT_EQ(client.sequences[0].text, "zero");
  EXPECT_EQ(client.sequences[0].ids.size(), 6U);
  EXPECT_EQ(client.sequences[0].finished.reason, FinishReason::kStop);
  EXPECT_EQ(client.sequences[0].finished.metrics.generated_tokens, 6);
  EXPECT_EQ(client.sequences[1].text, "caf\xC3\xA9");
  EXPECT_EQ(client.sequences[1].finished.reason, FinishReason::kLength);
  EXPECT_EQ(client.sequences[2].text, "two -> end");
  EXPECT_EQ(client.sequences[2].finished.reason, FinishReason::kTimeLimit);
  EXPECT_EQ(client.NumTold("closed"), 1);
}

TEST_F(GenerationOutputTest, OneThatFailsClosesTheRequestAfterTheOthers) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("ab", 20);
  request.n = 2;
  const auto generation = MakeUnstarted(request, &client);
  generation->OnStarted({.prompt_tokens = 2});
  Say(generation.get(), 0, "a");
  End(generation.get(), 0, FinishReason::kError, absl::InternalError("device"), 1);
  Say(generation.get(), 1, "b");
  End(generation.get(), 1, FinishReason::kLength, absl::OkStatus(), 1);
  ASSERT_TRUE(client.WaitFor("closed"));
  EXPECT_EQ(client.status, absl::InternalError("device"));
  EXPECT_EQ(client.NumTold("finished"), 1);
  EXPECT_EQ(client.sequences[1].text, "b");
}

TEST_F(GenerationOutputTest, LogprobsStandBesideTheirTokens) {
  RecordingClient client(/*prompt_reader=*/true);
  server::GenerationRequest request = Text("abc", 12);
  request.sampling.logprobs = 2;
  MustStart(request, &client);
  ASSERT_TRUE(client.WaitFor("closed"));
  const RecordingClient::Sequence& sequence = client.sequences[0];
  ASSERT_EQ(sequence.logprobs.size(), sequence.ids.size());
  for (size_t i = 0; i < sequence.ids.size(); ++i) {
    EXPECT_EQ(sequence.logprobs[i].rank, 1);  // greedy
    ASSERT_EQ(sequence.logprobs[i].top.size(), 2U);
    EXPECT_EQ(sequence.logprobs[i].top[0].id, sequence.ids[i]);
  }
}

// The model's generation_config.json gives the defaults of a request; the request's own values win.
TEST_F(GenerationOutputTest, TheModelsDefaultsAreThoseOfARequestThatSaysNothing) {
  WriteFile(dir_.path() / "generation_config.json",
            R"({"temperature":0.25,"top_k":7,"top_p":0.5,"min_p":0.125,"repetition_penalty":1.5,
                "max_new_tokens":33})");
  const auto sampling = [this](bool generation_config, const auto& parse) {
    engine::EngineOptions options;
    options.model_dir = dir_.path();
    options.generation_config = generation_config;
    const auto core = engine::Engine::Create(options);
    EXPECT_TRUE(core.ok()) << core.status();
    const engine::ModelInfo& model = (*core)->model();
    absl::StatusOr<server::GenerationRequest> request = parse(model.defaults);
    EXPECT_TRUE(request.ok()) << request.status();
    const auto made = server::MakeEngineRequest(*std::move(request), model, *tokenizer_);
    EXPECT_TRUE(made.ok()) << made.status();
    return made->sampling;
  };
  v1::GenerateRequest message;
  message.set_text("a");
  const auto grpc = [&message](const engine::SamplingDefaults& defaults) {
    return server::ParseRequest(message, defaults);
  };
  const engine::SamplingParams models = sampling(true, grpc);
  EXPECT_EQ(models.temperature, 0.25F);
  EXPECT_EQ(models.top_k, 7);
  EXPECT_EQ(models.top_p, 0.5F);
  EXPECT_EQ(models.min_p, 0.125F);
  EXPECT_EQ(models.repetition_penalty, 1.5F);
  EXPECT_EQ(models.max_tokens, 33);
  const engine::SamplingParams none = sampling(false, grpc);
  EXPECT_EQ(none.temperature, 1);
  EXPECT_EQ(none.top_k, 0);
  EXPECT_EQ(none.max_tokens, 256);
  message.set_temperature(2.0F);
  message.set_top_k(0);
  message.set_max_tokens(5);
  const engine::SamplingParams own = sampling(true, grpc);
  EXPECT_EQ(own.temperature, 2.0F);
  EXPECT_EQ(own.top_k, 0);
  EXPECT_EQ(own.max_tokens, 5);
  EXPECT_EQ(own.top_p, 0.5F);

  const auto http = [](const engine::SamplingDefaults& defaults) {
    auto completion = server::ParseCompletion(R"({"prompt":"a","top_k":5})", defaults).value();
    completion.generation.prompt = "a";
    return absl::StatusOr<server::GenerationRequest>(std::move(completion.generation));
  };
  const engine::SamplingParams of_http = sampling(true, http);
  EXPECT_EQ(of_http.temperature, 0.25F);
  EXPECT_EQ(of_http.top_k, 5);
  EXPECT_EQ(of_http.max_tokens, 33);
  EXPECT_EQ(sampling(false, http).max_tokens, 16) << "OpenAI's";
}

TEST_F(GenerationOutputTest, RefusesBadParametersNamingTheField) {
  const auto error = [this](auto change) {
    server::GenerationRequest request = Text("a", 5);
    change(request);
    return ErrorOf(request);
  };
  using Request = server::GenerationRequest;
  EXPECT_EQ(error([](Request& r) {
              r.stop = {"a", std::string(257, 'x')};
            }),
            "stop: 257 bytes at 1 is not at most 256");
  EXPECT_EQ(error([](Request& r) {
              r.bad_words = {"a", " \n"};
            }),
            "bad_words: the word at 1 is blank");
  EXPECT_EQ(error([](Request& r) { r.bad_words = {"\xff"}; }),
            "bad_words: at 0: the text is not UTF-8 at byte 0");
  EXPECT_EQ(error([](Request& r) { r.bad_words.resize(1025, "a"); }),
            "bad_words: 1025 words is not at most 1024");
  EXPECT_EQ(error([](Request& r) { r.truncate_prompt_tokens = 0; }),
            "truncate_prompt_tokens: 0 is neither -1 nor in 1..512, the model's positions");
  EXPECT_EQ(error([](Request& r) { r.time_limit_seconds = 0; }),
            "time_limit_seconds: 0 is not above 0 and at most 1e+06");
  EXPECT_EQ(error([](Request& r) { r.sampling.min_tokens = 6; }),
            "min_tokens: 6 is not in 0..5, max_tokens");
  EXPECT_EQ(error([](Request& r) { r.sampling.repetition_penalty = 0.0F; }),
            "repetition_penalty: 0 is not above 0 and at most 100");
  EXPECT_EQ(error([](Request& r) { r.sampling.frequency_penalty = 3.0F; }),
            "frequency_penalty: 3 is not in -2..2");
  EXPECT_EQ(error([](Request& r) { r.sampling.presence_penalty = -3.0F; }),
            "presence_penalty: -3 is not in -2..2");
  EXPECT_EQ(error([](Request& r) { r.sampling.logprobs = 21; }), "logprobs: 21 is not in 0..20");
  EXPECT_EQ(error([](Request& r) { r.prompt_logprobs = -1; }),
            "prompt_logprobs: -1 is not in 0..20");
  EXPECT_EQ(error([](Request& r) { r.n = -1; }), "n: -1 is not in 1..64");
  EXPECT_EQ(error([](Request& r) { r.priority = 1000; }), "priority: 1000 is not in -100..100");
  EXPECT_EQ(error([](Request& r) { r.cache_salt.resize(257); }),
            "cache_salt: 257 bytes is not at most 256");
}

}  // namespace
}  // namespace strata::testing::generation_output_test
