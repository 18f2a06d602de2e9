// Compares tokens that the device chooses with those of the host: the same ids, ranks and logprobs.

#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/kernels/kernel_testing.h"
#include "tests/support/engine_runner.h"
#include "tests/support/sampler.h"
#include "tests/support/tiny_model.h"

namespace strata::kernels::cuda_sampling_test {
namespace {

using engine::SamplingParams;
using engine::TokenHistory;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A choice by the engine's parameters.
struct Case {
  SamplingParams params = {};
  std::vector<int32_t> prompt = {};  // of the history
  std::vector<int32_t> output = {};
  std::vector<int32_t> eos_ids = {};
  double uniform = 0.5;
};

class CudaSamplingTest : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!IsSkipped()) backend_ = MakeCuda();
  }

  // All choices at once, case i from row i of the logits.
  void ExpectSameChoices(const std::vector<Case>& cases,
                         const std::vector<std::vector<float>>& logits) {
    const auto vocab = static_cast<int64_t>(logits[0].size());
    const auto rows = static_cast<int64_t>(logits.size());
    GuardedRows host(rows, vocab);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < vocab; ++j) {
        host.at(i, j) = logits[static_cast<size_t>(i)][static_cast<size_t>(j)];
      }
    }
    BackendRows device(*backend_, host);
    std::vector<TokenHistory> histories;
    std::vector<std::vector<TokenBias>> biases;
    std::vector<TokenChoice> choices;
    for (const Case& one : cases) {
      histories.emplace_back(one.params, one.prompt);
      for (const int32_t token : one.output) histories.back().AddOutput(token);
      std::vector<TokenBias>& list = biases.emplace_back();
      for (const auto& [id, bias] : one.params.logit_bias) list.push_back({id, bias});
      if (one.params.min_tokens > 0) {
        for (const int32_t id : one.eos_ids) list.push_back({id, kBarred});
      }
    }
    for (size_t i = 0; i < cases.size(); ++i) {
      const SamplingParams& params = cases[i].params;
      choices.push_back({.row = static_cast<int64_t>(i) % rows,
                         .temperature = params.temperature,
                         .top_k = params.top_k,
                         .top_p = params.top_p,
                         .min_p = params.min_p,
                         .repetition_penalty = params.repetition_penalty,
                         .frequency_penalty = params.frequency_penalty,
                         .presence_penalty = params.presence_penalty,
                         .seen = histories[i].entries(),
                         .biases = biases[i],
                         .allowed = params.allowed_ids,
                         .uniform = cases[i].uniform,
                         .num_logprobs = params.logprobs.value_or(-1)});
    }
    std::vector<ChosenToken> chosen(choices.size());
    backend_->ChooseTokens(device.rows(), choices);
    EXPECT_TRUE(backend_->TakeChosen(chosen).ok());
    device.Fetch();  // checks the marks around the logits
    strata::testing::Sampler sampler;
    for (size_t i = 0; i < cases.size(); ++i) {
      SCOPED_TRACE(i);
      const strata::testing::SampledToken expected = sampler.Sample(
          logits[i % logits.size()], cases[i].params,
          {.history = histories[i], .eos_ids = cases[i].eos_ids, .uniform = cases[i].uniform});
      ASSERT_EQ(chosen[i].token, expected.token);
      if (expected.logprobs) ExpectSameLogprobs(*expected.logprobs, chosen[i]);
    }
  }
  // Weights are rounded to 2^-40 of the highest, and exp by some units in the last place.
  static void ExpectSameLogprobs(const engine::TokenLogprobs& expected, const ChosenToken& chosen) {
    const auto expect_near = [](float a, float b) {
      if (a != b) {
        ASSERT_NEAR(a, b, 1e-5 + 4 * kUnit * std::abs(b));
      }
    };
    ASSERT_EQ(chosen.rank, expected.rank);
    expect_near(chosen.logprob, expected.logprob);
    ASSERT_EQ(static_cast<size_t>(chosen.num_top), expected.top.size());
    for (size_t i = 0; i < expected.top.size(); ++i) {
      ASSERT_EQ(chosen.top_ids[i], expected.top[i].id);
      expect_near(chosen.top_logprobs[i], expected.top[i].logprob);
    }
  }

  std::unique_ptr<Backend> backend_;
};

std::vector<float> Logits(uint32_t seed, int64_t vocab) {
  return Random(seed).Normals(vocab, 3.0f);
}

TEST_F(CudaSamplingTest, ChoosesAsTheEngineDoes) {
  constexpr int64_t kVocab = 1500;
  const std::vector<SamplingParams> ways = {
      {.temperature = 0, .logprobs = 0},
      {.temperature = 1, .logprobs = 3},
      {.temperature = 0.7f, .top_k = 40, .logprobs = 20},
      {.temperature = 1.3f, .top_p = 0.9f},
      {.temperature = 0.9f, .min_p = 0.05f},
      {.temperature = 2, .top_k = 200, .top_p = 0.8f, .min_p = 0.01f, .logprobs = 1},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_p = 1e-6f},
      {.temperature = 1e-3f},
      {.temperature = 100},
  };
  Random random(3);
  std::vector<Case> cases;
  std::vector<std::vector<float>> logits;
  for (uint32_t i = 0; i < 6; ++i) {
    for (const SamplingParams& way : ways) {
      const double uniform = i == 0   ? 0
                             : i == 1 ? 0.999999
                                      : static_cast<double>(random.Below(1 << 30)) / (1 << 30);
      cases.push_back({.params = way, .uniform = uniform});
      logits.push_back(Logits(100 + i, kVocab));
    }
  }
  InEveryOrder([&] { ExpectSameChoices(cases, logits); });
}

TEST_F(CudaSamplingTest, PenaltiesBiasesAndBars) {
  constexpr int64_t kVocab = 700;
  Random random(5);
  std::vector<Case> cases;
  std::vector<std::vector<float>> logits;
  for (uint32_t i = 0; i < 12; ++i) {
    Case one = {.params = {.temperature = i % 3 == 0 ? 0.0f : 1.0f,
                           .repetition_penalty = i % 2 == 0 ? 1.3f : 1.0f,
                           .frequency_penalty = i % 4 == 1 ? 0.5f : 0.0f,
                           .presence_penalty = i % 4 >= 2 ? 0.7f : 0.0f,
                           .logprobs = 5},
                .uniform = static_cast<double>(random.Below(1 << 30)) / (1 << 30)};
    for (int k = 0; k < 200; ++k) {
      one.prompt.push_back(static_cast<int32_t>(random.Below(kVocab)));
      one.output.push_back(static_cast<int32_t>(random.Below(kVocab / 2)));
    }
    if (i % 3 == 1) {
      one.params.logit_bias = {{7, 9.0f}, {8, -100.0f}, {7, 2.0f}, {9, 3e38f}, {10, -3e38f}};
    }
    logits.push_back(Logits(200 + i, kVocab));
    if (i % 3 == 2) {  // the likeliest id ends the text, and is still barred
      const auto likeliest = std::max_element(logits.back().begin(), logits.back().end());
      one.eos_ids = {static_cast<int32_t>(likeliest - logits.back().begin())};
      one.params.min_tokens = 3;
    }
    cases.push_back(one);
  }
  ExpectSameChoices(cases, logits);
}

TEST_F(CudaSamplingTest, TiesAndWhatIsNotFinite) {
  const float nan = std::nanf("");
  const std::vector<std::vector<float>> logits = {
      std::vector<float>(300, 2.0f),        // equal all: by id
      std::vector<float>(300, nan),         // none is possible
      std::vector<float>(300, -kInfinity),  //
      std::vector<float>(300, 0.0f),        //
      std::vector<float>(300, -5.0f),       //
  };
  std::vector<std::vector<float>> rows;
  std::vector<Case> cases;
  for (std::vector<float> row : logits) {
    if (row[0] == 0) {
      for (size_t i = 0; i < row.size(); i += 2) row[i] = -0.0f;  // equals 0
    }
    if (row[0] == -5) row[3] = kInfinity, row[5] = nan, row[290] = 4, row[291] = 4;
    for (const SamplingParams& params : {SamplingParams{.temperature = 0, .logprobs = 20},
                                         SamplingParams{.temperature = 1, .logprobs = 2},
                                         SamplingParams{.temperature = 1, .top_k = 7},
                                         SamplingParams{.temperature = 1, .top_p = 0.25f}}) {
      rows.push_back(row);
      cases.push_back({.params = params, .uniform = 0.6});
    }
  }
  ExpectSameChoices(cases, rows);
}

// Vocabularies at and above the largest size with sums in three pieces; more tokens of one
// likelihood than the list holds; a row whose length is no multiple of four.
TEST_F(CudaSamplingTest, LargeVocabulariesAndManyTies) {
  for (const int64_t vocab : {int64_t{1} << 18, (int64_t{1} << 18) + 3}) {
    Random random(11);
    std::vector<float> spread;
    for (int64_t id = 0; id < vocab; ++id) {
      spread.push_back(static_cast<float>(random.Below(64)) * 0.125f);
    }
    const std::vector<std::vector<float>> logits = {
        std::vector<float>(static_cast<size_t>(vocab), 1.5f), spread};
    std::vector<Case> cases;
    for (const SamplingParams& params : std::vector<SamplingParams>{
             {.temperature = 1}, {.temperature = 0.8f, .top_k = 100000, .top_p = 0.7f}}) {
      for (int row = 0; row < 2; ++row) cases.push_back({.params = params, .uniform = 0.71});
    }
    ExpectSameChoices(cases, logits);
  }
}

// Several choices from one row, as the sequences of a prompt make their first choice.
TEST_F(CudaSamplingTest, OneRowForSeveral) {
  std::vector<Case> cases;
  for (int i = 0; i < 9; ++i) {
    cases.push_back(
        {.params = {.temperature = 1, .repetition_penalty = 1.0f + 0.2f * static_cast<float>(i)},
         .prompt = {1, 2, 3, 4, 5},
         .uniform = 0.1 * i});
  }
  ExpectSameChoices(cases, {Logits(9, 50)});
}

// The host makes choices with allowed ids, in a call with choices of the device.
TEST_F(CudaSamplingTest, AllowedIdsAmongOtherChoices) {
  constexpr int64_t kVocab = 300;
  std::vector<Case> cases;
  std::vector<std::vector<float>> logits;
  for (uint32_t i = 0; i < 12; ++i) {
    Case one = {.params = {.temperature = i % 2 == 0 ? 0.0f : 1.0f, .logprobs = 3},
                .uniform = 0.07 * i};
    if (i % 3 == 1) one.params.allowed_ids = {7, 299, 0, 30};
    if (i % 3 == 2) one.params.allowed_ids = {static_cast<int32_t>(i)};  // a given token
    if (i == 4) one.params.logit_bias = {{7, 50.0f}};
    cases.push_back(one);
    logits.push_back(Logits(300 + i, kVocab));
  }
  ExpectSameChoices(cases, logits);
  std::vector<Case> hosts;
  for (size_t i = 1; i < cases.size(); i += 3) hosts.push_back(cases[i]);
  ExpectSameChoices(hosts, logits);  // no choice is the device's
}

// A model gives the same answers if the device chooses the tokens and if the host does, because
// every id is on a list of allowed ids; in every dtype of weights and cache.
TEST_F(CudaSamplingTest, TheEnginesAnswersAreTheSame) {
  using strata::testing::Recording;
  const strata::testing::ScratchDir scratch;
  const auto model_dir = strata::testing::WriteModelDir(
      strata::testing::MakeTinyModel({.vocab_size = 97, .max_positions = 64}), scratch.path());
  engine::EngineOptions options = {.model_dir = model_dir, .cache_bytes = size_t{1} << 20};
  const auto answers = [&](bool host_chooses) {
    auto core = engine::EngineCore::Create(options, MakeCuda()).value();
    std::vector<int32_t> allowed(host_chooses ? 97 : 0);
    std::iota(allowed.begin(), allowed.end(), 0);
    std::vector<std::shared_ptr<Recording>> recordings;
    const std::vector<SamplingParams> ways = {
        {.temperature = 0, .max_tokens = 6, .logprobs = 2},
        {.temperature = 1, .repetition_penalty = 1.5f, .seed = 5, .max_tokens = 8, .min_tokens = 8},
        {.temperature = 1,
         .top_k = 9,
         .top_p = 0.9f,
         .presence_penalty = 1,
         .seed = 6,
         .max_tokens = 7},
    };
    for (size_t i = 0; i < ways.size(); ++i) {
      engine::Request request = {.id = absl::StrCat(i),
                                 .prompt = strata::testing::RandomPrompt(i, 5, 97),
                                 .sampling = ways[i],
                                 .n = static_cast<int32_t>(1 + i)};
      request.sampling.allowed_ids = allowed;
      EXPECT_TRUE(core->Validate(request).ok()) << core->Validate(request);
      recordings.push_back(std::make_shared<Recording>());
      core->Add(std::move(request), recordings.back(), std::chrono::steady_clock::now());
    }
    while (core->HasWork()) core->Step();
    return recordings;
  };
  for (const auto& [weights, cache] : std::vector<std::pair<const char*, const char*>>{
           {"f32", "bf16"}, {"f16", "fp8"}, {"fp8", "f16"}, {"int8", "int8"}}) {
    SCOPED_TRACE(weights);
    options.weights = weights;
    options.cache_dtype = cache;
    const auto on_host = answers(true);
    const auto on_device = answers(false);
    for (size_t i = 0; i < on_host.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(on_device[i]->tokens, on_host[i]->tokens);
      EXPECT_FALSE(on_host[i]->tokens.empty());
      ASSERT_EQ(on_device[i]->others.size(), i);
      for (const auto& [index, other] : on_host[i]->others) {
        EXPECT_EQ(on_device[i]->others.at(index).tokens, other.tokens);
      }
    }
    EXPECT_EQ(on_device[0]->token_logprobs[1]->rank, 1);
    EXPECT_EQ(on_device[0]->token_logprobs[1]->top.size(), 2U);
  }
}

}  // namespace
}  // namespace strata::kernels::cuda_sampling_test
