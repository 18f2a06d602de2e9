#include "kvcache/plan/sharing_plan.h"

#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kvcache/plan_invariants.h"

namespace strata::kvcache::sharing_plan_test {
namespace {

constexpr AttentionShape kShape = {
    .num_layers = 4, .num_query_heads = 4, .num_kv_heads = 2, .head_dim = 8};

// All arguments of Make, plain until a test changes them.
struct Draft {
  explicit Draft(const AttentionShape& of = kShape) : shape(of) {
    for (int32_t layer = 0; layer < shape.num_layers; ++layer) {
      sources.emplace_back();
      for (int32_t head = 0; head < shape.num_query_heads; ++head) {
        const HeadRef plane = {layer, shape.KvHeadOf(head)};
        sources.back().push_back({.scores = {layer, head}, .keys = plane, .values = plane});
      }
      mixes.emplace_back(static_cast<size_t>(shape.num_kv_heads));
      learnable.push_back(false);
    }
  }

  absl::StatusOr<SharingPlan> Make() const {
    return SharingPlan::Make(shape, sources, mixes, learnable);
  }
  std::string Refusal() const {
    const absl::StatusOr<SharingPlan> plan = Make();
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(plan.status().message());
  }

  AttentionShape shape;
  std::vector<std::vector<HeadSources>> sources;
  std::vector<std::vector<std::optional<ValueMix>>> mixes;
  std::vector<bool> learnable;
};

TEST(AttentionShape, GroupsQueryHeads) {
  EXPECT_EQ(kShape.KvHeadOf(0), 0);
  EXPECT_EQ(kShape.KvHeadOf(1), 0);
  EXPECT_EQ(kShape.KvHeadOf(2), 1);
  EXPECT_EQ(kShape.KvHeadOf(3), 1);
}

TEST(AttentionShape, IsChecked) {
  const auto refusal = [](AttentionShape shape) {
    return std::string(CheckShape(shape).message());
  };
  EXPECT_TRUE(CheckShape(kShape).ok());
  EXPECT_EQ(refusal({0, 1, 1, 1}), "num_layers: 0 is out of range (1..1024)");
  EXPECT_EQ(refusal({1025, 1, 1, 1}), "num_layers: 1025 is out of range (1..1024)");
  EXPECT_EQ(refusal({1, 1025, 1, 1}), "num_query_heads: 1025 is out of range (1..1024)");
  EXPECT_EQ(refusal({1, 4, 8, 1}), "num_kv_heads: 8 is out of range (1..4)");
  EXPECT_EQ(refusal({1, 4, 3, 1}), "num_kv_heads: 3 does not divide the 4 query heads");
  EXPECT_EQ(refusal({1, 4, 2, 0}), "head_dim: 0 is out of range (1..65536)");
}

TEST(SharingPlan, PlainReadsItself) {
  const SharingPlan plan = SharingPlan::Plain(kShape);
  EXPECT_EQ(plan, *Draft().Make());
  EXPECT_EQ(plan.sources(2, 3).scores, (HeadRef{2, 3}));
  EXPECT_EQ(plan.sources(2, 3).keys, (HeadRef{2, 1}));
  EXPECT_EQ(plan.sources(2, 3).values, (HeadRef{2, 1}));
  EXPECT_EQ(plan.Run(2, 3), HeadRun::kComputeScores);
  EXPECT_EQ(plan.QueryHeads(1), (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(plan.KeyHeads(1), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(plan.StoredScoreHeads(), 0);
  EXPECT_EQ(plan.LastReaderOfScores(1), 1);
  EXPECT_EQ(plan.DescribeLayers()[3], "layer 3: scores own, keys own, values own");
  EXPECT_EQ(PlanInvariants(plan).Check(), "");
}

TEST(SharingPlan, ResolvesChainsOfScores) {
  Draft draft;
  draft.sources[1][0].scores = {0, 2};
  draft.sources[2][1].scores = {1, 0};
  draft.sources[3][3].scores = {2, 1};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sources(3, 3).scores, (HeadRef{0, 2}));
  EXPECT_EQ(plan->sources(3, 3).keys, (HeadRef{0, 1}));
  EXPECT_EQ(plan->Run(3, 3), HeadRun::kReuseScores);
  EXPECT_EQ(plan->LastReaderOfScores(0), 3);
  EXPECT_EQ(plan->StoredScoreHeads(), 1);
  EXPECT_NE(*plan, SharingPlan::Plain(kShape));
  EXPECT_EQ(PlanInvariants(*plan).Check(), "");
}

TEST(SharingPlan, SameScoresAndValuesReuseTheOutput) {
  Draft draft;
  for (const size_t layer : {size_t{1}, size_t{2}}) {
    draft.sources[layer][3].scores = {0, 3};
    draft.sources[layer][3].values = {0, 0};
  }
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->Run(1, 3), HeadRun::kReuseScores) << "layer 0 applies them to other values";
  EXPECT_EQ(plan->Run(2, 3), HeadRun::kReuseOutput);
  EXPECT_EQ(plan->OutputOwner(2, 3), (HeadRef{1, 3}));
  EXPECT_EQ(plan->LastReaderOfScores(0), 1) << "an output needs no scores any more";
}

TEST(SharingPlan, AnOwnerComputesEvenAfterALowerHeadOfItsLayer) {
  Draft draft;
  draft.sources[1][0].scores = {1, 1};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->Run(1, 0), HeadRun::kReuseScores);
  EXPECT_EQ(plan->Run(1, 1), HeadRun::kComputeScores);
  EXPECT_EQ(PlanInvariants(*plan).Check(), "");
}

TEST(SharingPlan, ScoresAreAliveFromOwnerToLastReader) {
  Draft draft;
  draft.sources[1][0].scores = {0, 0};
  draft.sources[2][1].scores = {1, 1};  // alive in 1..2, overlaps (0, 0)'s 0..1 in layer 1
  draft.sources[3][2].scores = {2, 2};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->StoredScoreHeads(), 2);
  EXPECT_EQ(plan->LastReaderOfScores(0), 1);
  EXPECT_EQ(plan->LastReaderOfScores(1), 2);
  EXPECT_EQ(plan->LastReaderOfScores(2), 3);
  EXPECT_EQ(plan->LastReaderOfScores(3), 3);
}

TEST(SharingPlan, PlanesAreThoseRead) {
  Draft draft;
  for (HeadSources& from : draft.sources[2]) from.values = {0, 1};
  draft.sources[3][0].keys = draft.sources[3][1].keys = {1, 0};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->ValuePlaneHeads(2).empty());
  EXPECT_TRUE(plan->ValueHeads(2).empty());
  EXPECT_EQ(plan->KeyHeads(3), (std::vector<int32_t>{1}));
  EXPECT_EQ(PlanInvariants(*plan).Check(), "");
}

TEST(SharingPlan, AMixKeepsLayerZerosProjectionAlive) {
  Draft draft;
  for (HeadSources& from : draft.sources[0]) from.values = {0, 0};
  draft.mixes[2][1] = ValueMix{.own = 0.5F, .first = 0};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->ValuePlaneHeads(0), (std::vector<int32_t>{0}));
  EXPECT_EQ(plan->ValueHeads(0), (std::vector<int32_t>{0, 1}));
  EXPECT_NE(*plan, SharingPlan::Plain(kShape));
}

TEST(SharingPlan, DropsTheMixOfAValueThatNobodyReads) {
  Draft draft;
  for (HeadSources& from : draft.sources[2]) from.values = {0, 0};
  draft.mixes[2][0] = draft.mixes[2][1] = ValueMix{.own = 1, .first = 1};
  draft.learnable[2] = true;
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->mix(2, 0).has_value());
  EXPECT_FALSE(plan->learnable_mix(2));
  EXPECT_EQ(plan->ValueHeads(0), (std::vector<int32_t>{0, 1})) << "read by layer 0 itself";
}

TEST(SharingPlan, Describes) {
  Draft draft;
  for (HeadSources& from : draft.sources[1]) from.scores.layer = 0;
  draft.sources[2][0].values = draft.sources[2][1].values = {0, 0};
  draft.sources[3][2].scores = {3, 0};
  draft.sources[3][3].scores = {3, 1};
  draft.mixes[3][0] = draft.mixes[3][1] = ValueMix{.own = 1, .first = 2};
  draft.mixes[2][1] = ValueMix{.own = 0.5F, .first = 0.5F};
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->DescribeLayers(),
            (std::vector<std::string>{
                "layer 0: scores own, keys own, values own",
                "layer 1: scores 0, keys 0, values own",
                "layer 2: scores own, keys own, values (heads 0-1 from layer 0, 2-3 own), mix (kv "
                "heads 1 0.5 own + 0.5 first)",
                "layer 3: scores (heads 0-1 own, 2-3 from layer 3 heads 0-1), keys (heads 0-1 own, "
                "2-3 from layer 3 head 0), values own, mix 1 own + 2 first",
            }));
}

TEST(SharingPlan, RefusesSourcesThatAreNotThere) {
  {
    Draft draft;
    draft.sources[1][2].scores = {2, 2};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: scores of layer 2 head 2, above their reader");
  }
  {
    Draft draft;
    draft.sources[1][2].keys = {3, 0};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: keys of layer 3 head 0, above their reader");
  }
  {
    Draft draft;
    draft.sources[1][2].values = {4, 0};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: values of layer 4 head 0, no such layer (0..3)");
  }
  {
    Draft draft;
    draft.sources[1][2].values = {-1, 0};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: values of layer -1 head 0, no such layer (0..3)");
  }
  {
    Draft draft;
    draft.sources[1][2].keys = {0, 2};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: keys of layer 0 head 2, no such head (0..1)");
  }
  {
    Draft draft;
    draft.sources[1][2].scores = {0, 4};
    EXPECT_EQ(draft.Refusal(), "layer 1 head 2: scores of layer 0 head 4, no such head (0..3)");
  }
}

TEST(SharingPlan, RefusesARingOfScores) {
  Draft draft;
  draft.sources[2][1].scores = {2, 3};
  draft.sources[2][3].scores = {2, 1};
  EXPECT_EQ(draft.Refusal(), "layer 2 head 1: scores that end at no owner");
  draft.sources[2][0].scores = {2, 1};  // leads into the ring
  EXPECT_EQ(draft.Refusal(), "layer 2 head 0: scores that end at no owner");
}

TEST(SharingPlan, TheLongestChainIsNoRing) {
  Draft draft;
  for (int32_t layer = 1; layer < kShape.num_layers; ++layer) {
    auto& heads = draft.sources[static_cast<size_t>(layer)];
    for (int32_t head = 0; head < 3; ++head) {
      heads[static_cast<size_t>(head)].scores = {layer, head + 1};
    }
    heads[3].scores = {layer - 1, 0};
  }
  const absl::StatusOr<SharingPlan> plan = draft.Make();
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sources(3, 0).scores, (HeadRef{0, 0}));
}

TEST(SharingPlan, RefusesKeysThatAreNotTheOwners) {
  Draft draft;
  draft.sources[2][0].scores = {1, 0};
  draft.sources[2][0].keys = {1, 0};
  EXPECT_TRUE(draft.Make().ok());
  draft.sources[2][0].keys = {0, 0};
  EXPECT_EQ(draft.Refusal(),
            "layer 2 head 0: keys of layer 0 head 0, but its scores are those of layer 1 head 0, "
            "which reads keys of layer 1 head 0");
}

TEST(SharingPlan, RefusesMixes) {
  {
    Draft draft;
    draft.mixes[1][1] = ValueMix{.own = std::numeric_limits<float>::quiet_NaN(), .first = 1};
    EXPECT_EQ(draft.Refusal(), "layer 1 kv head 1: the mix [nan, 1] is not finite");
  }
  {
    Draft draft;
    draft.mixes[1][1] = ValueMix{.own = 1, .first = std::numeric_limits<float>::infinity()};
    EXPECT_EQ(draft.Refusal(), "layer 1 kv head 1: the mix [1, inf] is not finite");
  }
  {
    Draft draft;
    draft.mixes[0][1] = ValueMix{};
    EXPECT_EQ(draft.Refusal(), "layer 0 kv head 1: a mix, but there are no values below layer 0");
  }
  {
    Draft draft;
    draft.learnable[3] = true;
    EXPECT_EQ(draft.Refusal(), "layer 3: a learnable mix, but no kv head is mixed");
  }
}

TEST(SharingPlan, RefusesListsOfAnotherShape) {
  {
    Draft draft;
    draft.sources.pop_back();
    EXPECT_EQ(draft.Refusal(), "sources for 3 layers, not 4");
  }
  {
    Draft draft;
    draft.sources[2].pop_back();
    EXPECT_EQ(draft.Refusal(), "layer 2: sources for 3 heads, not 4");
  }
  {
    Draft draft;
    draft.mixes[1].pop_back();
    EXPECT_EQ(draft.Refusal(), "layer 1: mixes for 1 kv heads, not 2");
  }
  {
    Draft draft;
    draft.learnable.pop_back();
    EXPECT_EQ(draft.Refusal(), "mixes for 4 and 3 layers, not 4");
  }
  Draft draft;
  draft.shape.num_layers = 0;
  EXPECT_EQ(draft.Refusal(), "num_layers: 0 is out of range (1..1024)");
}

TEST(SharingPlan, RandomPlansKeepTheirInvariants) {
  std::mt19937 random(1);
  const auto below = [&](int32_t limit) {
    return static_cast<int32_t>(random() % static_cast<uint32_t>(limit));
  };
  int made = 0;
  for (int round = 0; round < 400; ++round) {
    const int32_t kv_heads = 1 + below(3);
    Draft draft({.num_layers = 1 + below(5),
                 .num_query_heads = kv_heads * (1 + below(2)),
                 .num_kv_heads = kv_heads,
                 .head_dim = 4});
    for (int32_t layer = 0; layer < draft.shape.num_layers; ++layer) {
      for (HeadSources& from : draft.sources[static_cast<size_t>(layer)]) {
        if (below(2) == 0) {
          from.scores = {below(layer + 1), below(draft.shape.num_query_heads)};
        } else if (below(3) == 0) {
          from.keys = {below(layer + 1), below(kv_heads)};
        }
        if (below(2) == 0) from.values = {below(layer + 1), below(kv_heads)};
      }
      for (auto& mix : draft.mixes[static_cast<size_t>(layer)]) {
        if (layer > 0 && below(4) == 0) mix = ValueMix{.own = 0.25F, .first = 0.75F};
      }
    }
    const absl::StatusOr<SharingPlan> plan = draft.Make();
    if (!plan.ok()) continue;  // a ring, or keys named beside a self score that is reused
    ++made;
    ASSERT_EQ(PlanInvariants(*plan).Check(), "") << "round " << round;
  }
  EXPECT_GT(made, 200);
}

}  // namespace
}  // namespace strata::kvcache::sharing_plan_test
