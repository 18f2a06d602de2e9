#include "engine/serve/request_check.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/base/error_details.h"
#include "tests/support/engine_runner.h"
#include "tests/support/tiny_model.h"

namespace strata::engine::request_check_test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

ModelInfo Model() {
  ModelInfo model;
  model.vocab_size = 100;
  model.max_positions = 512;
  model.cache_tokens = 400;
  model.eos_ids = {2};
  return model;
}

using Change = std::function<void(Request&)>;

absl::Status Check(const Change& change) {
  Request request = {.id = "a", .prompt = {1, 2, 3}, .sampling = {.max_tokens = 10}};
  change(request);
  return CheckRequest(request, Model());
}

TEST(RequestCheckTest, TakesWhatStandsAtEveryLimit) {
  const std::vector<Change> changes = {
      [](Request&) {},
      [](Request& r) {
        r.prompt = {0, 99};
      },
      [](Request& r) { r.sampling.max_tokens = 398; },
      [](Request& r) { r.sampling.max_tokens = 0; },
      [](Request& r) {
        r.prompt.assign(400, 1);
        r.sampling.max_tokens = 0;
      },
      [](Request& r) { r.sampling.min_tokens = 10; },
      [](Request& r) { r.sampling.temperature = 0; },
      [](Request& r) { r.sampling.top_k = std::numeric_limits<int32_t>::max(); },
      [](Request& r) { r.sampling.top_p = 1e-30F; },
      [](Request& r) { r.sampling.top_p = 0; },
      [](Request& r) { r.sampling.min_p = 1; },
      [](Request& r) { r.sampling.repetition_penalty = 100; },
      [](Request& r) { r.sampling.repetition_penalty = 1e-30F; },
      [](Request& r) { r.sampling.frequency_penalty = -2; },
      [](Request& r) { r.sampling.presence_penalty = 2; },
      [](Request& r) { r.sampling.logit_bias.assign(1024, {.id = 99, .bias = -3e38F}); },
      [](Request& r) { r.sampling.stop_ids.assign(1024, 0); },
      [](Request& r) { r.sampling.allowed_ids.assign(5000, 99); },
      [](Request& r) {
        r.sampling.bad_words.assign(2048, {0, 99});
      },
      [](Request& r) {
        r.sampling.allowed_ids = {2};
        r.sampling.min_tokens = 1;
        r.sampling.ignore_eos = true;
      },
      [](Request& r) { r.sampling.logprobs = 0; },
      [](Request& r) { r.sampling.logprobs = 20; },
      [](Request& r) { r.prompt_logprobs = 20; },
      [](Request& r) { r.n = 64; },
      [](Request& r) { r.priority = -100; },
      [](Request& r) { r.priority = 100; },
      [](Request& r) { r.cache_salt = std::string(256, 's'); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    EXPECT_TRUE(Check(changes[i]).ok()) << i << ": " << Check(changes[i]);
  }
}

TEST(RequestCheckTest, RefusesNamingFieldValueAndLimit) {
  const std::vector<std::pair<Change, std::string>> cases = {
      {[](Request& r) { r.prompt.clear(); }, "prompt: 0 tokens is not at least 1"},
      {[](Request& r) { r.prompt[1] = 100; }, "prompt: id 100 at 1 is not in 0..99"},
      {[](Request& r) { r.sampling.max_tokens = -1; }, "max_tokens: -1 is not at least 0"},
      {[](Request& r) {
         r.prompt.resize(401);
         r.sampling.max_tokens = 0;
       },
       "prompt: 401 tokens leave no room for output in the tokens that fit the cache, 400"},
      {[](Request& r) {
         r.sampling.allowed_ids = {5, 100};
       },
       "allowed_token_ids: id 100 at 1 is not in 0..99"},
      {[](Request& r) {
         r.sampling.allowed_ids = {2, 7};
         r.sampling.stop_ids = {7};
         r.sampling.min_tokens = 3;
       },
       "allowed_token_ids: all of them end the output, and min_tokens is 3"},
      {[](Request& r) { r.sampling.bad_words.resize(2049); },
       "bad_words: 2049 token sequences is not at most 2048"},
      {[](Request& r) {
         r.sampling.bad_words = {{1}, {}};
       },
       "bad_words: one is empty"},
      {[](Request& r) {
         r.sampling.bad_words = {{1, -1}};
       },
       "bad_words: id -1 at 1 is not in 0..99"},
      {[](Request& r) { r.sampling.max_tokens = 399; },
       "max_tokens: 399 after a prompt of 3 is over the tokens that fit the cache, 400"},
      {[](Request& r) { r.sampling.max_tokens = std::numeric_limits<int32_t>::max(); },
       "max_tokens: 2147483647 after a prompt of 3 is over the model's positions, 512"},
      {[](Request& r) { r.prompt.resize(512); },
       "prompt: 512 tokens leave no room for output in the model's positions, 512"},
      {[](Request& r) { r.sampling.min_tokens = -1; },
       "min_tokens: -1 is not in 0..10, max_tokens"},
      {[](Request& r) { r.sampling.min_tokens = 11; },
       "min_tokens: 11 is not in 0..10, max_tokens"},
      {[](Request& r) { r.sampling.temperature = kNan; },
       "temperature: nan is not a finite number of at least 0"},
      {[](Request& r) { r.sampling.temperature = kInfinity; },
       "temperature: inf is not a finite number of at least 0"},
      {[](Request& r) { r.sampling.top_k = -1; }, "top_k: -1 is not at least 0"},
      {[](Request& r) { r.sampling.top_p = -0.5F; }, "top_p: -0.5 is not in 0..1"},
      {[](Request& r) { r.sampling.top_p = kNan; }, "top_p: nan is not in 0..1"},
      {[](Request& r) { r.sampling.min_p = 1.5F; }, "min_p: 1.5 is not in 0..1"},
      {[](Request& r) { r.sampling.min_p = kNan; }, "min_p: nan is not in 0..1"},
      {[](Request& r) { r.sampling.repetition_penalty = 0; },
       "repetition_penalty: 0 is not above 0 and at most 100"},
      {[](Request& r) { r.sampling.repetition_penalty = kNan; },
       "repetition_penalty: nan is not above 0 and at most 100"},
      {[](Request& r) { r.sampling.repetition_penalty = 101; },
       "repetition_penalty: 101 is not above 0 and at most 100"},
      {[](Request& r) { r.sampling.frequency_penalty = 2.5F; },
       "frequency_penalty: 2.5 is not in -2..2"},
      {[](Request& r) { r.sampling.presence_penalty = kNan; },
       "presence_penalty: nan is not in -2..2"},
      {[](Request& r) { r.sampling.logit_bias.resize(1025); },
       "logit_bias: 1025 entries is not at most 1024"},
      {[](Request& r) {
         r.sampling.logit_bias = {{.id = 1}, {.id = 100}};
       },
       "logit_bias: id 100 at 1 is not in 0..99"},
      {[](Request& r) { r.sampling.logit_bias = {{.id = -1}}; },
       "logit_bias: id -1 at 0 is not in 0..99"},
      {[](Request& r) { r.sampling.logit_bias = {{.id = 7, .bias = kInfinity}}; },
       "logit_bias: inf for id 7 is not a finite number"},
      {[](Request& r) { r.sampling.stop_ids.resize(1025); },
       "stop_token_ids: 1025 ids is not at most 1024"},
      {[](Request& r) { r.sampling.stop_ids = {-1}; },
       "stop_token_ids: id -1 at 0 is not in 0..99"},
      {[](Request& r) { r.sampling.logprobs = 21; }, "logprobs: 21 is not in 0..20"},
      {[](Request& r) { r.prompt_logprobs = -1; }, "prompt_logprobs: -1 is not in 0..20"},
      {[](Request& r) { r.n = 0; }, "n: 0 is not in 1..64"},
      {[](Request& r) { r.n = 65; }, "n: 65 is not in 1..64"},
      {[](Request& r) { r.priority = 101; }, "priority: 101 is not in -100..100"},
      {[](Request& r) { r.cache_salt = std::string(257, 's'); },
       "cache_salt: 257 bytes is not at most 256"},
  };
  for (const auto& [change, message] : cases) {
    const absl::Status status = Check(change);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << message;
    EXPECT_EQ(std::string(status.message()), message);
  }
}

TEST(RequestCheckTest, PromptLogprobsFitIntoOneMessage) {
  ModelInfo model = Model();
  model.max_positions = 20000;
  model.cache_tokens = 20000;
  Request request = {.id = "a", .prompt = std::vector<int32_t>(11904, 1), .sampling = {}};
  request.prompt_logprobs = 20;
  EXPECT_TRUE(CheckRequest(request, model).ok()) << CheckRequest(request, model);
  request.prompt.push_back(1);
  EXPECT_EQ(CheckRequest(request, model).message(),
            "prompt_logprobs: 11905 tokens with 20 others each are over the limit of 250000 a "
            "request");
}

TEST(RequestCheckTest, TheLimitsOfOneRequestHoldForAListOfThem) {
  Request request = {.id = "a", .prompt = std::vector<int32_t>(100, 1), .sampling = {}, .n = 21};
  RequestTotals sequences;
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(sequences.Add(request).ok()) << i;
  EXPECT_EQ(sequences.Add(request).message(),
            "prompt: 4 prompts with n = 21 are over the limit of 64 sequences a request");
  request.n = 1;
  request.prompt.resize(100000);
  request.prompt_logprobs = 0;
  RequestTotals logprobs;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(logprobs.Add(request).ok()) << i;
  EXPECT_EQ(logprobs.Add(request).message(),
            "prompt_logprobs: 300000 of 3 prompts are over the limit of 250000 a request");
}

TEST(RequestCheckTest, NamesOneOfSeveralPrompts) {
  absl::Status status = InvalidField("prompt", "id 100 at 1 is not in 0..99");
  status.SetPayload("type", absl::Cord("kept"));
  const absl::Status named = NamePrompt(3, status);
  EXPECT_EQ(named.message(), "prompt[3]: id 100 at 1 is not in 0..99");
  EXPECT_EQ(named.GetPayload("type"), absl::Cord("kept"));
  EXPECT_EQ(FieldOf(named), "prompt[3]");
  const absl::Status other = InvalidField("prompt_logprobs", "21 is not in 0..20");
  EXPECT_EQ(NamePrompt(3, other), other);
}

// Returns the number of cases in which the cache is the limit but not too small.
int ExpectThatMostTokensIsWhatIsTaken(const EngineOptions& options) {
  testing::EngineRunner runner(options);
  const ModelInfo& model = runner.core().model();
  EXPECT_EQ(model.plan.stores_scores, options.score_reuse == ScoreReuse::kStore);
  int limited = 0;
  for (int32_t prompt = 1; prompt <= model.max_positions; ++prompt) {
    for (const int32_t n : {1, 2, 3, 7, 64}) {
      Request request = {
          .id = "a", .prompt = testing::RandomPrompt(1, prompt, 96), .sampling = {}, .n = n};
      const int64_t most = MostTokens(model, prompt, n);
      if (most >= 1) {  // then checks the longest prompt with room for `most`
        const int32_t longest = MostPromptTokens(model, static_cast<int32_t>(most), n);
        EXPECT_GE(longest, prompt);
        EXPECT_GE(MostTokens(model, longest, n), most);
        if (longest < model.max_positions) {
          EXPECT_LT(MostTokens(model, longest + 1, n), most);
        }
      }
      if (prompt < model.max_positions) {  // scores alone take as much as one token
        request.sampling.max_tokens = 0;
        EXPECT_EQ(runner.core().Validate(request).ok(), most >= 1) << prompt << " and " << n;
      }
      limited += most >= 1 && prompt + most < model.max_positions ? 1 : 0;
      for (const int64_t tokens : {most, most + 1}) {
        request.sampling.max_tokens = static_cast<int32_t>(tokens);
        if (tokens == 0) continue;
        EXPECT_EQ(runner.core().Validate(request).ok(), tokens >= 1 && tokens <= most)
            << prompt << " and " << n << " times " << tokens << " in " << model.cache_tokens;
      }
    }
  }
  return limited;
}

TEST(RequestCheckTest, MostTokensIsWhatTheEngineTakes) {
  const testing::ScratchDir scratch;
  const auto dir = testing::WriteModelDir(
      testing::MakeTinyModel(
          {.max_positions = 128, .cross_layer = {{"preset", "reuse"}, {"compute_layers", {0}}}}),
      scratch.path());
  for (const ScoreReuse score_reuse : {ScoreReuse::kRoute, ScoreReuse::kStore}) {
    for (const size_t kib : {64, 200, 4000}) {
      EXPECT_GT(ExpectThatMostTokensIsWhatIsTaken({.model_dir = dir,
                                                   .device = "cpu",
                                                   .threads = 1,
                                                   .score_reuse = score_reuse,
                                                   .cache_bytes = kib << 10,
                                                   .block_tokens = 4}),
                10);
    }
  }
}

}  // namespace
}  // namespace strata::engine::request_check_test
