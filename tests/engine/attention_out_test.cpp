// Requested attention probabilities against the oracle's.
#include <cmath>
#include <limits>
#include <map>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/plan_cases.h"

namespace strata::testing::attention_out_test {
namespace {

using engine::AttentionHead;
using nlohmann::json;

constexpr kvcache::AttentionShape kShape = {6, 4, 2, 8};
constexpr int32_t kPrompt = 37;

std::vector<AttentionHead> AllHeads() {
  std::vector<AttentionHead> heads;
  for (int32_t layer = 0; layer < kShape.num_layers; ++layer) {
    for (int32_t head = 0; head < kShape.num_query_heads; ++head) heads.push_back({layer, head});
  }
  return heads;
}

engine::Request Asking(std::vector<AttentionHead> heads, int32_t max_tokens) {
  engine::Request request;
  request.id = "a";
  request.prompt = RandomPrompt(3, kPrompt, 96);
  request.sampling = Greedy(max_tokens);
  request.attention = std::move(heads);
  return request;
}

engine::EngineOptions Options(const std::filesystem::path& dir, engine::ScoreReuse score_reuse) {
  return {.model_dir = dir,
          .device = "cpu",
          .threads = 1,
          .cross_layer = {},
          .score_reuse = score_reuse,
          .max_prefill_chunk = 16};
}

// [layer, head] -> [T, T] of the oracle's run over `tokens`.
std::map<std::pair<int, int>, NaiveMatrix> NaiveProbabilities(const TinyModel& model,
                                                              NaiveArchitecture naive,
                                                              const std::vector<int32_t>& tokens) {
  std::map<std::pair<int, int>, NaiveMatrix> all;
  naive.probabilities = [&all, inner = naive.probabilities](NaivePass& pass, int layer, int head) {
    return all[{layer, head}] = inner(pass, layer, head);
  };
  const NaiveDecoder decoder(ReadNaiveConfig(model.config_json), FullTensors(model.options), naive);
  decoder.Logits(tokens, 0);
  return all;
}

// The error of a probability is twice the error of a score, some 1e-5 here, times the probability.
TEST(AttentionOutTest, IsTheOraclesUnderEveryPlan) {
  constexpr int32_t kTokens = 4;
  for (const PlanCase& plan : PresetCases(kShape)) {
    SCOPED_TRACE(plan.name);
    const TinyModel model =
        MakeTinyModel({.attention = kShape, .cross_layer = plan.cross_layer, .trim = false});
    const ScratchDir scratch;
    const auto dir = WriteModelDir(model, scratch.path());
    EngineRunner runner(Options(dir, engine::ScoreReuse::kStore));
    ASSERT_TRUE(runner.Submit(Asking(AllHeads(), kTokens)).ok());
    runner.Run();
    const Recording& got = runner["a"];
    std::vector<int32_t> tokens = RandomPrompt(3, kPrompt, 96);
    tokens.insert(tokens.end(), got.tokens.begin(), got.tokens.end() - 1);
    const auto naive = NaiveProbabilities(model, plan.naive, tokens);
    for (int32_t i = 0; i < kTokens; ++i) {
      const auto& rows = got.attention[static_cast<size_t>(i)];
      const int32_t seen = kPrompt + i;
      ASSERT_EQ(rows.size(), AllHeads().size() * static_cast<size_t>(seen));
      auto at = rows.begin();
      for (const auto& [layer, head] : AllHeads()) {
        const double* expected = naive.at({layer, head}).row(seen - 1);
        double sum = 0;
        for (int32_t p = 0; p < seen; ++p, ++at) {
          ASSERT_NEAR(*at, expected[p], 1e-4) << "layer " << layer << " head " << head;
          sum += double{*at};
        }
        EXPECT_NEAR(sum, 1, 1e-5);
      }
    }
    // Routing gives the same bits, and asking for attention changes no token.
    EngineRunner routing(Options(dir, engine::ScoreReuse::kRoute));
    ASSERT_TRUE(routing.Submit(Asking(AllHeads(), kTokens)).ok());
    routing.Run();
    EXPECT_EQ(routing["a"].attention, got.attention);
    EngineRunner silent(Options(dir, engine::ScoreReuse::kStore));
    ASSERT_TRUE(silent.Submit(Asking({}, kTokens)).ok());
    silent.Run();
    EXPECT_EQ(silent["a"].logits, got.logits);
    EXPECT_TRUE(silent["a"].attention[0].empty());
  }
}

// Beside other requests, forked, with prompt logprobs: each sequence gets its own rows.
TEST(AttentionOutTest, InABatchEachGetsItsOwn) {
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  const ScratchDir scratch;
  const auto dir =
      WriteModelDir(MakeTinyModel({.attention = kShape, .cross_layer = reuse}), scratch.path());
  const std::vector<AttentionHead> heads = {{5, 3}, {0, 1}, {5, 3}};
  EngineRunner alone(Options(dir, engine::ScoreReuse::kAuto));
  ASSERT_TRUE(alone.Submit(Asking(heads, 6)).ok());
  alone.Run();

  EngineRunner crowd(Options(dir, engine::ScoreReuse::kAuto));
  crowd.MustSubmit("before", RandomPrompt(8, 21, 96), Greedy(9));
  engine::Request request = Asking(heads, 6);
  request.n = 2;
  request.prompt_logprobs = 1;
  ASSERT_TRUE(crowd.Submit(std::move(request)).ok());
  engine::Request other = Asking({{2, 2}}, 5);
  other.id = "other";
  other.prompt = RandomPrompt(9, 50, 96);
  ASSERT_TRUE(crowd.Submit(std::move(other)).ok());
  crowd.Run();
  EXPECT_EQ(crowd["a"].attention, alone["a"].attention);
  EXPECT_EQ(crowd["a"].others.at(1).attention, alone["a"].attention) << "greedy, so the same";
  const std::vector<float>& first = alone["a"].attention[0];
  ASSERT_EQ(first.size(), 3U * kPrompt);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + kPrompt, first.end() - kPrompt));
  EXPECT_EQ(crowd["other"].attention[4].size(), 54U);
  EXPECT_TRUE(crowd["before"].attention[0].empty());
}

TEST(AttentionOutTest, RefusesWhatIsNotThereOrTooMuch) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(MakeTinyModel({.attention = kShape}), scratch.path());
  EngineRunner runner(Options(dir, engine::ScoreReuse::kAuto));
  EXPECT_EQ(runner.Submit(Asking({{0, 0}, {6, 0}}, 4)).message(),
            "attention: layer 6 at 1 is not in 0..5");
  EXPECT_EQ(runner.Submit(Asking({{1, -1}}, 4)).message(),
            "attention: head -1 at 0 is not in 0..3");
  EXPECT_EQ(runner.Submit(Asking(std::vector<AttentionHead>(25), 1)).message(),
            "attention: 25 heads is not at most 24, the model's");
  engine::Request most = Asking(std::vector<AttentionHead>(24), 63);
  most.n = 5;
  EXPECT_TRUE(runner.Submit(most).ok());
  most.n = 6;
  EXPECT_EQ(runner.Submit(most).message(),
            "attention: 24 heads over up to 100 positions for 378 tokens are over the limit of "
            "900000 probabilities a request");
}

}  // namespace
}  // namespace strata::testing::attention_out_test
