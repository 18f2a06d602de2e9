// Reused scores in score blocks: storing them and computing them again give the same output, beside
// any other requests, and their costs are the plan's.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/plan_cases.h"
#include "tests/support/random_plan.h"
#include "tests/support/sanitized.h"

namespace strata::testing::score_reuse_test {
namespace {

using nlohmann::json;

constexpr int32_t kBlockTokens = 8;
constexpr kvcache::AttentionShape kShape = {6, 4, 2, 8};
const json kReuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};

TinyModelOptions Model(const json& cross_layer, const kvcache::AttentionShape& shape = kShape) {
  return {.attention = shape, .max_positions = 256, .cross_layer = cross_layer};
}

engine::EngineOptions Options(const std::filesystem::path& dir, engine::ScoreReuse score_reuse,
                              const std::string& cache_dtype = "f32") {
  return {.model_dir = dir,
          .device = "cpu",
          .threads = 1,
          .cache_dtype = cache_dtype,
          .cross_layer = {},
          .score_reuse = score_reuse,
          .cache_bytes = size_t{4} << 20,
          .block_tokens = kBlockTokens,
          .max_batch_tokens = 64,
          .max_prefill_chunk = 24};
}

// Bytes of `blocks` blocks, and of as many score blocks if scores are stored.
size_t Budget(const engine::EngineOptions& options, size_t blocks) {
  EngineRunner runner(options);
  return runner.core().model().plan.held_bytes_per_token() * kBlockTokens * blocks;
}

// Fills every score block that no sequence holds.
void PoisonFreeScores(engine::EngineCore& core) {
  const kernels::PagedArena arena = core.cache().arena();
  if (arena.scores == nullptr) return;
  std::set<int32_t> held;
  for (const auto& sequence : core.scheduler().running()) {
    const auto ids = sequence->blocks.score_ids();
    held.insert(ids.begin(), ids.end());
  }
  const std::vector<float> poison(static_cast<size_t>(arena.score_slots) * kBlockTokens,
                                  std::nanf(""));
  for (int32_t id = 0; id < core.cache().usage().score_blocks_total; ++id) {
    if (held.contains(id)) continue;
    float* const block = arena.scores + static_cast<size_t>(id) * poison.size();
    core.backend().CopyFromHost(reinterpret_cast<std::byte*>(block),
                                std::as_bytes(std::span(poison)));
  }
}

// Common prefixes, forks, prompts of many lengths, drawn and greedy.
std::vector<engine::Request> Crowd() {
  std::vector<engine::Request> requests;
  const std::vector<int32_t> common = RandomPrompt(5, 20, 96);
  for (int32_t i = 0; i < 14; ++i) {
    engine::Request request;
    request.id = "r" + std::to_string(i);
    request.prompt = RandomPrompt(static_cast<uint64_t>(100 + i), 1 + 5 * i, 96);
    if (i % 3 == 0) request.prompt.insert(request.prompt.begin(), common.begin(), common.end());
    request.sampling = Greedy(10 + i);
    request.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.n = i % 5 == 4 ? 3 : 1;
    requests.push_back(std::move(request));
  }
  return requests;
}

struct CrowdRun {
  std::map<std::string, Recording> requests;
  int64_t score_bytes_read = 0;
  int32_t preemptions = 0;
};

CrowdRun RunCrowd(const engine::EngineOptions& options) {
  EngineRunner runner(options);
  const kvcache::CacheManager& cache = runner.core().cache();
  const std::vector<std::byte> poison(
      static_cast<size_t>(cache.usage().blocks_total) * cache.planes().block_bytes(),
      std::byte{0xff});  // NaN, also in int8
  runner.core().backend().CopyFromHost(cache.arena().arena, poison);
  for (engine::Request& request : Crowd()) EXPECT_TRUE(runner.Submit(std::move(request)).ok());
  while (runner.core().HasWork()) {
    PoisonFreeScores(runner.core());
    runner.Step();
  }
  CrowdRun run;
  for (const engine::Request& request : Crowd()) {
    run.requests[request.id] = runner[request.id];
    run.preemptions += runner[request.id].end.metrics.preemptions;
  }
  run.score_bytes_read = runner.core().backend().counters().score_bytes_read;
  const kvcache::CacheUsage usage = runner.core().cache().usage();
  EXPECT_EQ(usage.score_blocks_used, 0);
  EXPECT_EQ(usage.blocks_used, 0);
  EXPECT_EQ(runner.core().cache().available_scores(), usage.score_blocks_total);
  return run;
}

void ExpectSameAnswers(const CrowdRun& a, const CrowdRun& b) {
  for (const auto& [id, expected] : a.requests) {
    SCOPED_TRACE(id);
    const Recording& actual = b.requests.at(id);
    EXPECT_EQ(expected.tokens, actual.tokens);
    EXPECT_EQ(expected.logits, actual.logits);
    ASSERT_EQ(expected.others.size(), actual.others.size());
    for (const auto& [index, other] : expected.others) {
      EXPECT_EQ(other.tokens, actual.others.at(index).tokens);
      EXPECT_EQ(other.logits, actual.others.at(index).logits);
    }
  }
}

std::vector<PlanCase> Plans() {
  std::vector<PlanCase> plans = PresetCases(kShape);
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const RandomPlan plan = MakeRandomPlan(seed, 6, 4, 2);
    plans.push_back({"random " + std::to_string(seed), plan.cross_layer, {}});
  }
  return plans;
}

TEST(ScoreReuseTest, StoredAndRoutedGiveTheSameBitsInAnyCrowd) {
  for (const std::string cache_dtype : {"f32", "int8"}) {
    if (kSanitized && cache_dtype == "int8") continue;
    int storing = 0;
    int preempting = 0;
    for (const PlanCase& plan : Plans()) {
      SCOPED_TRACE(plan.name + ", " + cache_dtype);
      const ScratchDir scratch;
      const auto dir = WriteModelDir(MakeTinyModel(Model(plan.cross_layer)), scratch.path());
      const CrowdRun routed = RunCrowd(Options(dir, engine::ScoreReuse::kRoute, cache_dtype));
      EXPECT_EQ(routed.score_bytes_read, 0);
      const CrowdRun stored = RunCrowd(Options(dir, engine::ScoreReuse::kStore, cache_dtype));
      ExpectSameAnswers(routed, stored);
      // Room for about half of them: preempted ones are computed again, by routing.
      engine::EngineOptions tight = Options(dir, engine::ScoreReuse::kStore, cache_dtype);
      tight.cache_bytes = Budget(tight, 36);
      const CrowdRun preempted = RunCrowd(tight);
      ExpectSameAnswers(routed, preempted);
      if (stored.score_bytes_read > 0) ++storing;
      if (preempted.preemptions > 0) ++preempting;
    }
    EXPECT_GE(storing, 10);
    EXPECT_GE(preempting, 10);
  }
}

// If a key plane is no wider than the scores over it, reading the scores saves nothing.
TEST(ScoreReuseTest, StoresWhereThatMovesFewerBytes) {
  const auto stores = [](const kvcache::AttentionShape& shape, const json& cross_layer,
                         engine::ScoreReuse score_reuse, const std::string& cache_dtype = "f32") {
    const ScratchDir scratch;
    const auto dir = WriteModelDir(MakeTinyModel(Model(cross_layer, shape)), scratch.path());
    EngineRunner runner(Options(dir, score_reuse, cache_dtype));
    const auto& plan = runner.core().model().plan;
    EXPECT_EQ(runner.core().cache().stores_scores(), plan.stores_scores);
    return plan.stores_scores;
  };
  const json svformer_reuse = {{{"preset", "svformer"}}, kReuse};
  EXPECT_TRUE(stores({6, 4, 4, 8}, kReuse, engine::ScoreReuse::kAuto));
  EXPECT_FALSE(stores({6, 8, 1, 8}, kReuse, engine::ScoreReuse::kAuto))
      << "32 bytes of keys, 8 scores of 4";
  EXPECT_TRUE(stores({6, 8, 1, 8}, kReuse, engine::ScoreReuse::kStore));
  EXPECT_TRUE(stores({6, 4, 2, 8}, kReuse, engine::ScoreReuse::kAuto));
  EXPECT_TRUE(stores({6, 4, 2, 8}, kReuse, engine::ScoreReuse::kAuto, "k=f32,v=int8"))
      << "values are read anyway";
  EXPECT_FALSE(stores({6, 4, 2, 8}, kReuse, engine::ScoreReuse::kAuto, "k=int8,v=f32"))
      << "24 bytes of keys, 4 scores of 4 read by 4 layers and written by 2";
  EXPECT_FALSE(stores({6, 4, 4, 8}, kReuse, engine::ScoreReuse::kRoute));
  EXPECT_FALSE(stores({6, 4, 4, 8}, svformer_reuse, engine::ScoreReuse::kStore))
      << "outputs are reused, not scores";
  EXPECT_FALSE(stores({6, 4, 4, 8}, nullptr, engine::ScoreReuse::kStore));
}

TEST(ScoreReuseTest, BlocksAreTakenToDecodeAndFreeAtTheEnd) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(MakeTinyModel(Model(kReuse)), scratch.path());
  EngineRunner runner(Options(dir, engine::ScoreReuse::kStore));
  const auto used = [&] { return runner.core().cache().usage().score_blocks_used; };
  const int32_t total = runner.core().cache().usage().score_blocks_total;
  const auto promised = [&] { return total - used() - runner.core().cache().available_scores(); };
  runner.MustSubmit("a", RandomPrompt(1, 40, 96), Greedy(30));
  runner.Step();  // 24 of 40
  EXPECT_EQ(used(), 0) << "prefill routes";
  EXPECT_EQ(promised(), 5);
  runner.Step();
  EXPECT_EQ(used(), 0);
  runner.Step();  // the first decode, of position 40
  EXPECT_EQ(used(), 6);
  EXPECT_EQ(promised(), 0);
  runner.core().Finish("a", engine::FinishReason::kCancelled, absl::CancelledError("gone"));
  EXPECT_EQ(used(), 0);
  EXPECT_EQ(runner["a"].end.metrics.peak_score_bytes, 6U * 4 * 4 * kBlockTokens);

  runner.MustSubmit("b", RandomPrompt(2, 40, 96), Greedy(1));
  runner.Run();
  EXPECT_EQ(runner["b"].end.metrics.peak_score_bytes, 0) << "it never decoded";
}

TEST(ScoreReuseTest, CountersTellScoresFromPlanes) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(MakeTinyModel(Model(kReuse)), scratch.path());
  const auto decode_step = [&](engine::ScoreReuse score_reuse) {
    EngineRunner runner(Options(dir, score_reuse));
    runner.MustSubmit("a", RandomPrompt(1, 20, 96), Greedy(3));
    runner.Step();
    const kernels::BackendCounters before = runner.core().backend().counters();
    runner.Step();
    kernels::BackendCounters step = runner.core().backend().counters();
    step.cache_bytes_read -= before.cache_bytes_read;
    return step;
  };
  constexpr int64_t kContext = 21;
  constexpr int64_t kPlaneRows = 2 * 8 * 4 * kContext;  // of both kv heads
  const kernels::BackendCounters stored = decode_step(engine::ScoreReuse::kStore);
  EXPECT_EQ(stored.cache_bytes_read, (2 + 6) * kPlaneRows) << "keys of 2 layers, values of 6";
  EXPECT_EQ(stored.score_bytes_written, 2 * 4 * 4 * kContext);
  EXPECT_EQ(stored.score_bytes_read, 4 * 4 * 4 * kContext);
  EXPECT_EQ(decode_step(engine::ScoreReuse::kRoute).cache_bytes_read, (6 + 6) * kPlaneRows);
}

TEST(ScoreReuseTest, RefusesWhatCanNeverFit) {
  const ScratchDir scratch;
  const auto dir = WriteModelDir(MakeTinyModel(Model(kReuse)), scratch.path());
  engine::EngineOptions options = Options(dir, engine::ScoreReuse::kStore);
  options.cache_bytes = Budget(options, 16);
  EngineRunner runner(options);
  engine::Request request;
  request.id = "wide";
  request.prompt = RandomPrompt(1, 64, 96);  // 8 blocks, shared by all four
  request.sampling = Greedy(9);              // and one each
  request.n = 4;
  EXPECT_EQ(
      runner.Submit(std::move(request)).message(),
      "n: 4 sequences of up to 9 tokens after a prompt of 64 take 36 blocks of reused scores, "
      "the cache has 16");
}

// A chain of reuse as long as the model, and partial reuse down it.
TEST(ScoreReuseTest, LongChains) {
  const kvcache::AttentionShape deep = {80, 4, 2, 8};
  const json whole = {{"preset", "reuse"}, {"compute_layers", {0}}};
  const json part = {{"preset", "reuse"}, {"compute_layers", {0}}, {"heads", 3}};
  for (const json& cross_layer : {whole, part}) {
    const ScratchDir scratch;
    const auto dir = WriteModelDir(MakeTinyModel(Model(cross_layer, deep)), scratch.path());
    std::vector<Recording> runs;
    for (const auto score_reuse : {engine::ScoreReuse::kStore, engine::ScoreReuse::kRoute}) {
      EngineRunner runner(Options(dir, score_reuse));
      runner.MustSubmit("a", RandomPrompt(1, 30, 96), Greedy(6));
      runner.Run();
      runs.push_back(runner["a"]);
    }
    EXPECT_EQ(runs[0].logits, runs[1].logits);
  }
}

// The number of sequences that decode at once in one budget follows the bytes that each holds.
TEST(ScoreReuseTest, ConcurrencyFollowsTheBytesATokenHolds) {
  constexpr int32_t kTokens = 5 * kBlockTokens;
  constexpr size_t kBudget = size_t{3} << 20;
  std::map<std::string, double> sequences;
  std::map<std::string, double> bytes;
  const std::map<std::string, json> plans = {
      {"plain", nullptr},
      {"svformer", {{"preset", "svformer"}}},
      {"reuse", kReuse},
      {"svformer-reuse", {{{"preset", "svformer"}}, kReuse}}};
  for (const auto& [name, cross_layer] : plans) {
    const ScratchDir scratch;
    const auto dir = WriteModelDir(MakeTinyModel(Model(cross_layer)), scratch.path());
    engine::EngineOptions options = Options(dir, engine::ScoreReuse::kStore);
    options.cache_bytes = kBudget;
    options.max_running = 4096;
    options.max_batch_tokens = 4096;
    EngineRunner runner(options);
    // They grow from a block to five; the peak is the number running at the first preemption.
    for (int32_t i = 0; i < 1200; ++i) {
      runner.MustSubmit(std::to_string(i), RandomPrompt(static_cast<uint64_t>(i), kTokens - 4, 96),
                        Greedy(5));
    }
    size_t most = 0;
    while (runner.core().HasWork()) {
      most = std::max(most, runner.core().scheduler().running().size());
      runner.core().Step();
    }
    sequences[name] = static_cast<double>(most);
    bytes[name] = static_cast<double>(runner.core().model().plan.held_bytes_per_token());
  }
  for (const auto& [name, count] : sequences) {
    const double expected = bytes["plain"] / bytes[name];
    EXPECT_NEAR(count / sequences["plain"] / expected, 1, 0.02) << name << ": " << count;
  }
}

}  // namespace
}  // namespace strata::testing::score_reuse_test
