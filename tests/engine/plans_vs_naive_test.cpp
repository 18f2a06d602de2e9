// Every plan against the oracle: f32, bf16 and int8, full and trimmed checkpoints, prefill and
// decode.
//
// Bounds, relative to the largest |logit| of a row.
//
// f32: rounding is 2^-24 an operation. Sums of K <= 64 products err by at most K 2^-24 of the sum
// of magnitudes, some 4e-6; a layer feeds that through a softmax of scores with deviation 2, and
// six layers add up: below 1e-4 with room, while any wrong source changes the logits by 1e-2 and
// more (TheOracleTellsPlansApart).
//
// A cache in bf16: weights and activations are f32 (the oracle reads the rounded weights), so only
// keys and values of the cache are rounded, by up to 2^-9 each. The oracle can round them too, and
// logits are compared with that oracle. Both round alike unless a value lies so close to the middle
// of two bfloat16 that the f32 error decides: 1e-6 of 2^-8, one element in some thousand, a few of
// a sequence. Such an element is off by 2^-8 and moves a logit by some 1e-3, most if a plan
// amplifies it (resformer's V + 2 V_0): 2e-2 with room. Most steps have no such element and must be
// as close as f32; truncation, for example, would not be. In int8 the same goes for steps of 1/127
// of a row's largest element, up to twice as long: 4e-2. The effect of rounding on the text is
// computed, not guessed: a greedy token must be the exact oracle's if its margin is more than twice
// the sum of the bound and the distance between the two oracles.
//
// Weights in int8: weights and their inputs are rounded to 1/127 of the largest of a row, which is
// some 2.5 times the usual one. Each puts noise of 2.5 / 127 / sqrt(12), 6e-3, into a product. Six
// layers of seven such products each give 3e-2 in the mean, with outliers if scores are close. This
// distinguishes a plan from an entirely wrong one, and wrong quantisation from right; the other
// types distinguish single sources.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/plan_cases.h"
#include "tests/support/random_plan.h"
#include "tests/support/sanitized.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::plans_vs_naive_test {
namespace {

using kernels::ElementType;
using kvcache::AttentionShape;
using nlohmann::json;

constexpr double kF32Bound = 1e-4;
constexpr double kBf16Bound = 2e-2;
constexpr double kInt8Bound = 4e-2;        // of the cache
constexpr double kInt8WeightsBound = 0.5;  // of weights and their inputs
constexpr double kInt8WeightsMean = 0.1;

constexpr AttentionShape kMha = {6, 4, 4, 8};
constexpr AttentionShape kGqa = {6, 4, 2, 12};
constexpr AttentionShape kMqa = {6, 4, 1, 16};

struct Workload {
  int32_t prompt_tokens = 37;
  int32_t new_tokens = 8;
  int32_t prefill_chunk = 16;  // the prompt takes three steps
  int32_t block_tokens = 16;
  std::string weights = "f32";
  std::string cache_dtype = "f32";
};

struct Agreement {
  int close = 0;               // steps whose logits are within kF32Bound
  int compared = 0;            // tokens with margins large enough to compare
  double deviation = 0;        // mean, from the oracle that rounds like the engine
  double exact_deviation = 0;  // mean, from the exact oracle
};

// Runs `model` with reused scores stored, and with reused scores computed again: the same bits.
Recording RunBothWays(const TinyModel& model, const std::vector<int32_t>& prompt,
                      const Workload& work) {
  const ScratchDir scratch;
  const auto run = [&, dir = WriteModelDir(model, scratch.path())](engine::ScoreReuse score_reuse) {
    EngineRunner runner({.model_dir = dir,
                         .device = "cpu",
                         .threads = 1,
                         .weights = work.weights,
                         .cache_dtype = work.cache_dtype,
                         .cross_layer = {},
                         .score_reuse = score_reuse,
                         .cache_bytes = size_t{16} << 20,
                         .block_tokens = work.block_tokens,
                         .max_prefill_chunk = work.prefill_chunk});
    runner.MustSubmit("a", prompt, Greedy(work.new_tokens));
    runner.Run();
    return runner["a"];
  };
  Recording stored = run(engine::ScoreReuse::kStore);
  const Recording routed = run(engine::ScoreReuse::kRoute);
  EXPECT_EQ(stored.logits, routed.logits);
  EXPECT_EQ(stored.tokens, routed.tokens);
  return stored;
}

// Runs `model` and compares every logit and every token with the oracle.
Agreement Compare(const TinyModel& model, const NaiveArchitecture& naive,
                  const Workload& work = {}) {
  const NaiveCache cache = work.cache_dtype == "int8"   ? NaiveCache::kInt8
                           : work.cache_dtype == "bf16" ? NaiveCache::kBf16
                                                        : NaiveCache::kExact;
  const double bound = work.weights == "int8"       ? kInt8WeightsBound
                       : cache == NaiveCache::kInt8 ? kInt8Bound
                       : work.weights == "bf16"     ? 2 * kBf16Bound  // twice as much is rounded
                       : cache == NaiveCache::kBf16 ? kBf16Bound
                                                    : kF32Bound;
  std::vector<int32_t> tokens =
      RandomPrompt(model.options.seed, work.prompt_tokens, model.options.vocab_size);
  const Recording got = RunBothWays(model, tokens, work);
  EXPECT_TRUE(got.in_order);
  EXPECT_EQ(got.tokens.size(), static_cast<size_t>(work.new_tokens));
  if (got.tokens.size() != static_cast<size_t>(work.new_tokens)) return {};

  // The oracle reads the engine's own continuation, so that every step counts, even after a token
  // that was too close to call.
  tokens.insert(tokens.end(), got.tokens.begin(), got.tokens.end() - 1);
  const NaiveDecoder decoder(ReadNaiveConfig(model.config_json), FullTensors(model.options), naive);
  const int first = work.prompt_tokens - 1;
  const NaiveMatrix exact = decoder.Logits(tokens, first);
  const NaiveMatrix expected =
      decoder.Logits(tokens, first, {.cache = cache, .inputs = work.weights == "bf16"});
  Agreement agreement;
  for (int i = 0; i < work.new_tokens; ++i) {
    const auto step = static_cast<size_t>(i);
    const double deviation = RelativeDeviation(got.logits[step], expected.row(i));
    EXPECT_LE(deviation, bound) << "step " << i;
    agreement.close += deviation <= kF32Bound ? 1 : 0;
    agreement.deviation += deviation / work.new_tokens;
    agreement.exact_deviation +=
        RelativeDeviation(got.logits[step], exact.row(i)) / work.new_tokens;

    const NaiveChoice choice = Choose({exact.row(i), static_cast<size_t>(exact.cols)});
    double rounding = 0;
    for (int j = 0; j < exact.cols; ++j) {
      rounding = std::max(rounding, std::fabs(exact.row(i)[j] - expected.row(i)[j]));
    }
    if (choice.margin <= 2 * (rounding + bound * choice.largest_magnitude)) continue;
    EXPECT_EQ(got.tokens[step], choice.token) << "step " << i << ", margin " << choice.margin;
    ++agreement.compared;
  }
  return agreement;
}

TinyModelOptions Options(const AttentionShape& shape, const json& cross_layer, uint64_t seed) {
  return {.attention = shape,
          .tied = seed % 2 == 0,
          .seed = seed,
          .cross_layer = cross_layer,
          .trim = seed % 3 != 0};
}

// On an emulated device every second case, from `first` on; else all cases.
std::vector<PlanCase> Some(std::vector<PlanCase> cases, size_t first) {
  if (!TestBackendIsEmulated()) return cases;
  std::vector<PlanCase> some;
  for (size_t i = first; i < cases.size(); i += 2) some.push_back(std::move(cases[i]));
  return some;
}
std::vector<AttentionShape> Some(std::vector<AttentionShape> shapes) {
  if (TestBackendIsEmulated()) shapes = {kGqa};
  return shapes;
}

TEST(PlansVsNaiveTest, PresetsInF32) {
  uint64_t seed = 0;
  for (const AttentionShape& shape : Some({kMha, kGqa, kMqa})) {
    for (const PlanCase& plan : Some(PresetCases(shape), 0)) {
      for (const bool trim : {true, false}) {
        if (TestBackendIsEmulated() && !trim) continue;
        TinyModelOptions options = Options(shape, plan.cross_layer, ++seed);
        options.trim = trim;
        SCOPED_TRACE(plan.name + ", kv heads " + std::to_string(shape.num_kv_heads) +
                     (trim ? ", trimmed" : ", full size") + ", seed " + std::to_string(seed));
        EXPECT_GE(Compare(MakeTinyModel(options), plan.naive).compared, 7);
      }
    }
  }
}

TEST(PlansVsNaiveTest, RandomPlansInF32) {
  const uint64_t end = TestBackendIsEmulated() ? 1003 : kSanitized ? 1020 : 1050;
  for (uint64_t seed = 1000; seed < end; ++seed) {
    const AttentionShape shape = seed % 3 == 0 ? kMqa : seed % 3 == 1 ? kGqa : kMha;
    const RandomPlan plan =
        MakeRandomPlan(seed, shape.num_layers, shape.num_query_heads, shape.num_kv_heads);
    SCOPED_TRACE("seed " + std::to_string(seed) + ": " + plan.cross_layer.dump());
    EXPECT_GE(
        Compare(MakeTinyModel(Options(shape, plan.cross_layer, seed)), NaiveFromTable(plan.table))
            .compared,
        7);
  }
}

// Prompts that end beyond the first span of attention, one of them exactly with it, and block
// lengths that do and do not divide a span.
TEST(PlansVsNaiveTest, LongContextsInF32) {
  const std::vector<Workload> workloads = {{.prompt_tokens = 253, .new_tokens = 8},
                                           {.prompt_tokens = 300, .prefill_chunk = 512},
                                           {.prompt_tokens = 341, .block_tokens = 5},
                                           {.prompt_tokens = 522, .prefill_chunk = 100}};
  size_t next = 0;
  for (const PlanCase& plan : PresetCases(kGqa)) {
    if (TestBackendIsEmulated() && next == 1) break;
    TinyModelOptions options = Options(kGqa, plan.cross_layer, 77 + next);
    options.max_positions = 640;
    const Workload& work = workloads[next++ % workloads.size()];
    SCOPED_TRACE(plan.name + ", prompt " + std::to_string(work.prompt_tokens));
    EXPECT_GE(Compare(MakeTinyModel(options), plan.naive, work).compared, 7);
  }
}

TEST(PlansVsNaiveTest, PresetsInARoundedCache) {
  for (const std::string cache_dtype : {"bf16", "int8"}) {
    Agreement total;
    int steps = 0;
    uint64_t seed = 400;
    for (const AttentionShape& shape : Some({kMha, kGqa, kMqa})) {
      for (const PlanCase& plan : Some(PresetCases(shape), 1)) {
        TinyModelOptions options = Options(shape, plan.cross_layer, ++seed);
        options.dtype = ElementType::kBF16;
        SCOPED_TRACE(cache_dtype + ", " + plan.name + ", seed " + std::to_string(seed));
        const Workload work = {.new_tokens = 16, .cache_dtype = cache_dtype};
        const Agreement agreement = Compare(MakeTinyModel(options), plan.naive, work);
        total.close += agreement.close;
        total.compared += agreement.compared;
        steps += work.new_tokens;
      }
    }
    EXPECT_GT(total.close, steps / 2) << cache_dtype;
    EXPECT_GT(total.compared, steps / 3)
        << cache_dtype << ": too few are sure enough for the test to mean anything";
  }
}

// With weights in bf16 each of their inputs is rounded as well: fewer steps have no middle case,
// but logits still agree with the rounding oracle, not with the exact one.
TEST(PlansVsNaiveTest, PresetsInBf16) {
  Agreement total;
  int steps = 0;
  uint64_t seed = 500;
  for (const AttentionShape& shape : Some({kGqa, kMqa})) {
    for (const PlanCase& plan : Some(PresetCases(shape), 1)) {
      TinyModelOptions options = Options(shape, plan.cross_layer, ++seed);
      options.dtype = ElementType::kBF16;
      SCOPED_TRACE(plan.name + ", seed " + std::to_string(seed));
      const Workload work = {.new_tokens = 16, .weights = "bf16", .cache_dtype = "bf16"};
      const Agreement agreement = Compare(MakeTinyModel(options), plan.naive, work);
      total.close += agreement.close;
      total.deviation += agreement.deviation;
      total.exact_deviation += agreement.exact_deviation;
      steps += work.new_tokens;
    }
  }
  EXPECT_GT(total.close, steps / 3);
  EXPECT_LT(total.deviation, total.exact_deviation / 4);
}

// Among query heads that read one pair of planes some keep their scores and some do not. The size
// of heads fits a device's tensor cores.
TEST(PlansVsNaiveTest, PartialReuseInBf16) {
  constexpr AttentionShape kShape = {4, 8, 2, 32};
  NaiveArchitecture naive = NaivePlain();
  NaiveReuse(naive, {0}, 3);
  const json plan = {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 3}};
  TinyModelOptions options = Options(kShape, plan, 600);
  options.dtype = ElementType::kBF16;
  Compare(MakeTinyModel(options), naive,
          {.new_tokens = 16, .weights = "bf16", .cache_dtype = "bf16"});
}

TEST(PlansVsNaiveTest, PresetsInInt8) {
  double deviation = 0;
  int runs = 0;
  uint64_t seed = 500;
  for (const AttentionShape& shape : {kMha, kMqa}) {
    for (const PlanCase& plan : PresetCases(shape)) {
      const TinyModelOptions options = Options(shape, plan.cross_layer, ++seed);
      SCOPED_TRACE(plan.name + ", seed " + std::to_string(seed));
      const Workload work = {.new_tokens = 16, .weights = "int8"};
      const Agreement agreement = Compare(MakeTinyModel(options), plan.naive, work);
      EXPECT_EQ(agreement.close, 0) << "f32 in int8's clothes";
      deviation += agreement.deviation;
      ++runs;
    }
  }
  EXPECT_LE(deviation / runs, kInt8WeightsMean);
}

// The tensors that a checkpoint lacks show the plan it was trained with.
TEST(PlansVsNaiveTest, PlansReadOffTheCheckpoint) {
  for (const PlanCase& plan : PresetCases(kGqa)) {
    const std::string& name = plan.name;
    if (name != "plain" && name != "svformer" && name != "svformer-anchors" && name != "reuse" &&
        name != "cla-2" && name != "svformer-reuse") {
      continue;
    }
    SCOPED_TRACE(name);
    TinyModel model = MakeTinyModel(Options(kGqa, plan.cross_layer, 31));
    json config = json::parse(model.config_json);
    config.erase("cross_layer");
    model.config_json = config.dump();
    EXPECT_GE(Compare(model, plan.naive).compared, 7);
  }
}

TEST(PlansVsNaiveTest, RopeScaling) {
  for (const json& scaling :
       {json{{"type", "linear"}, {"factor", 4.0}}, json{{"rope_type", "linear"}, {"factor", 2.5}},
        json{{"rope_type", "llama3"},
             {"factor", 8.0},
             {"low_freq_factor", 1.0},
             {"high_freq_factor", 4.0},
             {"original_max_position_embeddings", 64}}}) {
    SCOPED_TRACE(scaling.dump());
    TinyModel model = MakeTinyModel(Options(kGqa, {{"preset", "svformer"}}, 8));
    json config = json::parse(model.config_json);
    config["rope_scaling"] = scaling;
    config["rope_theta"] = 500.0;
    model.config_json = config.dump();
    NaiveArchitecture naive = NaivePlain();
    NaiveSvFormer(naive, {0});
    EXPECT_GE(Compare(model, naive, {.prompt_tokens = 120}).compared, 7);
  }
}

// The bounds above hold only because one wrong source moves the logits far beyond them.
TEST(PlansVsNaiveTest, TheOracleTellsPlansApart) {
  const TinyModelOptions options = Options(kGqa, {{"preset", "plain"}}, 3);
  const NaiveConfig config = ReadNaiveConfig(MakeTinyModel(options).config_json);
  const std::vector<int32_t> tokens = RandomPrompt(3, 37, options.vocab_size);
  RandomPlan plan = MakeRandomPlan(7, kGqa.num_layers, kGqa.num_query_heads, kGqa.num_kv_heads);
  const auto logits = [&](const NaiveTable& table) {
    return NaiveDecoder(config, FullTensors(options), NaiveFromTable(table)).Logits(tokens, 36);
  };
  const NaiveMatrix before = logits(plan.table);
  const std::vector<float> row(before.values.begin(), before.values.end());
  for (auto list : {&NaiveTable::scores, &NaiveTable::values}) {
    for (const size_t layer : {2U, 5U}) {
      NaiveTable wrong = plan.table;
      auto& source = (wrong.*list)[layer][1];
      source.first = source.first == 0 ? 1 : 0;
      EXPECT_GT(RelativeDeviation(row, logits(wrong).row(0)), 100 * kF32Bound);
    }
  }
}

}  // namespace
}  // namespace strata::testing::plans_vs_naive_test
