// The bits of a request's logits depend on its tokens alone: not on the batch around it, the cuts
// of its prefill, the length of a block, the threads, or whether self is written or left out.
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/random_plan.h"
#include "tests/support/sanitized.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::determinism_test {
namespace {

using kernels::ElementType;
using nlohmann::json;

struct Load {
  std::string name;
  int32_t prefill_chunk = 512;
  int32_t batch_tokens = 512;
  int32_t threads = 1;
  int32_t block_tokens = 16;
  int32_t others = 0;  // requests beside the tested one
};

const std::vector<Load> kLoads = {
    {.name = "chunks of 7", .prefill_chunk = 7},
    {.name = "chunks of 1", .prefill_chunk = 1},
    {.name = "2 threads", .threads = 2},
    {.name = "blocks of 5", .block_tokens = 5},
    {.name = "blocks of 1", .block_tokens = 1},
    {.name = "blocks of 64", .block_tokens = 64},
    {.name = "in a batch of 32", .others = 31},
    {.name = "in a batch of 32, chunks of 7, 2 threads, blocks of 5",
     .prefill_chunk = 7,
     .threads = 2,
     .block_tokens = 5,
     .others = 31},
    {.name = "in a batch of 32, a crowded step", .batch_tokens = 40, .threads = 2, .others = 31},
};

// The request runs greedily and, a second time, with random draws.
struct Outcome {
  Recording greedy;
  Recording drawn;
};

// Dtypes of a checkpoint, of the weights in memory, and of the cache.
struct Storage {
  ElementType checkpoint;
  std::string weights;
  std::string cache;
};

Outcome RunUnder(const Load& load, const std::filesystem::path& model_dir, const Storage& storage,
                 int32_t prompt_tokens, const std::string& cross_layer = {}) {
  EngineRunner runner({.model_dir = model_dir,
                       .device = "cpu",
                       .threads = load.threads,
                       .weights = storage.weights,
                       .cache_dtype = storage.cache,
                       .cross_layer = cross_layer,
                       .cache_bytes = size_t{64} << 20,
                       .block_tokens = load.block_tokens,
                       .max_batch_tokens = load.batch_tokens,
                       .max_prefill_chunk = load.prefill_chunk});
  const int32_t vocab = runner.core().model().vocab_size;
  const engine::SamplingParams drawn = {.temperature = 0.9F,
                                        .top_p = 0.95F,
                                        .seed = 4711,
                                        .max_tokens = 10,
                                        .stop_ids = {},
                                        .ignore_eos = true};
  const auto add_others = [&](int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; ++i) {
      engine::SamplingParams params = i % 2 == 0 ? Greedy(3 + i % 11) : drawn;
      params.seed = static_cast<uint64_t>(i);
      runner.MustSubmit("other " + std::to_string(i),
                        RandomPrompt(static_cast<uint64_t>(1000 + i), 1 + i * 37 % 61, vocab),
                        params);
    }
  };
  // Some are already decoding, some come while it decodes.
  add_others(0, load.others / 3);
  for (int i = 0; i < 3 && load.others > 0; ++i) runner.Step();
  add_others(load.others / 3, load.others * 2 / 3);
  const std::vector<int32_t> prompt = RandomPrompt(5, prompt_tokens, vocab);
  runner.MustSubmit("greedy", prompt, Greedy(12));
  runner.MustSubmit("drawn", prompt, drawn);
  if (load.others > 0) runner.Step();
  add_others(load.others * 2 / 3, load.others);
  runner.Run();
  return {runner["greedy"], runner["drawn"]};
}

void ExpectSameBits(const Recording& a, const Recording& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logits.size(), b.logits.size());
  for (size_t i = 0; i < a.logits.size(); ++i) {
    ASSERT_EQ(a.logits[i].size(), b.logits[i].size());
    ASSERT_EQ(
        std::memcmp(a.logits[i].data(), b.logits[i].data(), a.logits[i].size() * sizeof(float)), 0)
        << "token " << i;
  }
}

void ExpectSameBits(const Outcome& a, const Outcome& b) {
  ASSERT_EQ(a.greedy.logits.size(), 12U);
  ASSERT_EQ(a.drawn.logits.size(), 10U);
  ExpectSameBits(a.greedy, b.greedy);
  ExpectSameBits(a.drawn, b.drawn);
}

constexpr kvcache::AttentionShape kShape = {6, 4, 2, 12};

std::vector<json> Plans() {
  const json svformer = {{"preset", "svformer"}};
  const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
  return {{{"preset", "plain"}},
          svformer,
          {{"preset", "resformer"}, {"mix", "learnable"}},
          reuse,
          {{"preset", "reuse"}, {"compute_layers", {0, 3}}, {"heads", 3}},
          {svformer, reuse},
          {{"preset", "sla"}, {"skip_layers", 2}, {"skip_heads", 2}},
          {{"preset", "cla"}, {"factor", 2}},
          MakeRandomPlan(1, 6, 4, 2).cross_layer,
          MakeRandomPlan(2, 6, 4, 2).cross_layer};
}

const std::vector<Storage> kStorages = {{ElementType::kF32, "f32", "f32"},
                                        {ElementType::kBF16, "bf16", "bf16"},
                                        {ElementType::kBF16, "bf16", "int8"},
                                        {ElementType::kF32, "f32", "k=bf16,v=int8"},
                                        {ElementType::kBF16, "int8", "bf16"}};

TEST(DeterminismTest, TheSameBitsUnderAnyLoad) {
  const std::vector<json> plans = Plans();
  for (size_t i = 0; i < kStorages.size() * plans.size(); ++i) {
    // Every plan in f32 and bf16, every third in the other dtypes.
    if ((kSanitized || i >= 2 * plans.size()) && i % 3 != 0) continue;
    const Storage& storage = kStorages[i / plans.size()];
    const json& plan = plans[i % plans.size()];
    const ScratchDir scratch;
    const auto dir = WriteModelDir(
        MakeTinyModel({.attention = kShape, .dtype = storage.checkpoint, .cross_layer = plan}),
        scratch.path());
    const Outcome alone = RunUnder({}, dir, storage, 90);
    for (const Load& load : kLoads) {
      SCOPED_TRACE(plan.dump() + ", " + storage.weights + ", cache " + storage.cache + ", " +
                   load.name);
      ExpectSameBits(alone, RunUnder(load, dir, storage, 90));
    }
  }
}

// Over the border between two spans of attention, in full chunks of 512 and in smaller ones.
TEST(DeterminismTest, TheSameBitsInLongContexts) {
  for (const size_t kind : {0, 2, 4}) {  // each dtype of weights, two of the cache
    const Storage& storage = kStorages[kind];
    const json reuse = {{"preset", "reuse"}, {"compute_layers", {0, 4}}};
    const ScratchDir scratch;
    const auto dir = WriteModelDir(MakeTinyModel({.attention = kShape,
                                                  .max_positions = 640,
                                                  .dtype = storage.checkpoint,
                                                  .cross_layer = reuse}),
                                   scratch.path());
    const Outcome alone = RunUnder({}, dir, storage, 530);
    for (const Load& load : kLoads) {
      SCOPED_TRACE(storage.weights + ", cache " + storage.cache + ", " + load.name);
      ExpectSameBits(alone, RunUnder(load, dir, storage, 530));
    }
  }
}

TEST(DeterminismTest, AllSelfIsPlain) {
  json scores = json::array();
  json planes = json::array();
  for (int l = 0; l < kShape.num_layers; ++l) {
    json heads = json::array();
    json kv_heads = json::array();
    for (int h = 0; h < kShape.num_query_heads; ++h) {
      heads.push_back({l, h});
      kv_heads.push_back({l, kShape.KvHeadOf(h)});
    }
    scores.push_back(heads);
    planes.push_back(kv_heads);
  }
  const std::vector<json> spelled_out = {
      {{"scores", scores}, {"keys", planes}, {"values", planes}},
      {{"scores", json::array()}},
      {{"preset", "plain"}},
      {{"preset", "cla"}, {"factor", 1}},
      {{"preset", "svformer"}, {"anchors", {0, 1, 2, 3, 4, 5}}},
      {{"preset", "reuse"}, {"compute_layers", {0, 1, 2, 3, 4, 5}}},
      {{"preset", "resformer"}, {"layers", json::array()}}};
  for (const Storage& storage : kStorages) {
    const ScratchDir scratch;
    const auto dir = WriteModelDir(
        MakeTinyModel({.attention = kShape, .dtype = storage.checkpoint, .cross_layer = {}}),
        scratch.path());
    const Outcome plain = RunUnder({}, dir, storage, 90);
    for (const json& plan : spelled_out) {
      SCOPED_TRACE(plan.dump());
      ExpectSameBits(plain, RunUnder({}, dir, storage, 90, plan.dump()));
    }
    // And the comparison can fail.
    const Outcome other = RunUnder({}, dir, storage, 90, R"({"preset":"svformer"})");
    EXPECT_NE(plain.greedy.logits[0], other.greedy.logits[0]);
  }
}

}  // namespace
}  // namespace strata::testing::determinism_test
