// Random traffic on a pool far too small, against a model of the invariants. The backend's tokens
// are a hash of all tokens before them as the cache returns them, so every request's output is
// known beforehand, with any sharing of blocks and any number of preemptions. In every second round
// the backend chooses the tokens, and steps start before the last one's tokens are known.
//
//   STRATA_SOAK_STEPS=1000000 STRATA_SOAK_SEED=7 engine_soak_test
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <map>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/hash_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing::soak_test {
namespace {

using engine::FinishReason;

constexpr int32_t kVocab = 61;
constexpr int32_t kBlockTokens = 4;
constexpr int32_t kMaxPositions = 96;

uint64_t FromEnvironment(const char* name, uint64_t fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

// Checks every event against the request's known output.
class CheckedSink final : public engine::RequestSink {
 public:
  explicit CheckedSink(engine::Request request)
      : request_(std::move(request)), outputs_(static_cast<size_t>(request_.n)) {
    expected_ = request_.prompt;
    for (int32_t i = 0; i < request_.sampling.max_tokens; ++i) {
      expected_.push_back(HashNext(expected_, kVocab));
    }
  }

  void OnStarted(const engine::StartedEvent& event) override {
    EXPECT_EQ(started_++, 0);
    EXPECT_EQ(event.prompt_tokens, std::ssize(request_.prompt));
    EXPECT_LT(event.cached_tokens, event.prompt_tokens);
    EXPECT_EQ(event.cached_tokens % kBlockTokens, 0);
    const bool whole = request_.bypass_prefix_cache || request_.prompt_logprobs.has_value();
    EXPECT_TRUE(!whole || event.cached_tokens == 0);
  }
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override {
    EXPECT_TRUE(request_.prompt_logprobs.has_value());
    EXPECT_EQ(started_, 1);
    EXPECT_EQ(logprobs_told_++, 0);
    EXPECT_EQ(logprobs.size() + 1, request_.prompt.size());
  }
  void OnToken(engine::TokenEvent event) override {
    Output& output = outputs_.at(static_cast<size_t>(event.index));
    EXPECT_EQ(started_, 1);
    EXPECT_FALSE(output.finished);
    EXPECT_EQ(logprobs_told_, request_.prompt_logprobs.has_value() ? 1 : 0);
    EXPECT_EQ(event.position, std::ssize(request_.prompt) + output.tokens);
    EXPECT_EQ(event.token, expected_.at(static_cast<size_t>(event.position))) << request_.id;
    EXPECT_FALSE(Stops(event.token));
    ++output.tokens;
  }
  void OnFinished(engine::FinishedEvent event) override {
    Output& output = outputs_.at(static_cast<size_t>(event.index));
    EXPECT_FALSE(output.finished) << request_.id;
    output.finished = true;
    ++finished_;
    reason = event.reason;
    EXPECT_EQ(event.metrics.generated_tokens, output.tokens);
    EXPECT_LE(event.metrics.preemptions, engine::Scheduler::kMaxPreemptions);
    if (event.reason == FinishReason::kLength) {
      EXPECT_EQ(output.tokens, request_.sampling.max_tokens);
    }
    if (event.reason == FinishReason::kStop) {
      EXPECT_TRUE(Stops(expected_.at(request_.prompt.size() + static_cast<size_t>(output.tokens))));
    }
    preemptions += event.metrics.preemptions;
  }

  bool done() const { return finished_ == request_.n; }
  const engine::Request& request() const { return request_; }

  FinishReason reason = FinishReason::kNone;
  int64_t preemptions = 0;

 private:
  bool Stops(int32_t token) const {
    const std::vector<int32_t>& ids = request_.sampling.stop_ids;
    return std::find(ids.begin(), ids.end(), token) != ids.end();
  }

  struct Output {
    int32_t tokens = 0;
    bool finished = false;
  };
  const engine::Request request_;
  std::vector<int32_t> expected_;
  std::vector<Output> outputs_;
  int32_t started_ = 0;
  int32_t logprobs_told_ = 0;
  int32_t finished_ = 0;
};

class Soak {
 public:
  explicit Soak(uint64_t seed) : random_(seed) {
    const int32_t layers = 1 + Below(3);
    nlohmann::json plan;
    if (layers > 1) plan = {{"preset", "reuse"}, {"compute_layers", {0}}};
    const auto dir = WriteModelDir(MakeTinyModel({.attention = {.num_layers = layers,
                                                                .num_query_heads = 1,
                                                                .num_kv_heads = 1,
                                                                .head_dim = 8},
                                                  .hidden_size = 8,
                                                  .intermediate_size = 8,
                                                  .vocab_size = kVocab,
                                                  .max_positions = kMaxPositions,
                                                  .cross_layer = plan}),
                                   scratch_.path());
    engine::EngineOptions options;
    options.model_dir = dir;
    options.score_reuse = Below(3) == 0 ? engine::ScoreReuse::kRoute : engine::ScoreReuse::kStore;
    const int32_t blocks = 24 + Below(40);
    const bool stores = layers > 1 && options.score_reuse == engine::ScoreReuse::kStore;
    const auto planes = static_cast<size_t>(1 + layers);  // keys of the first layer, values of all
    options.cache_bytes = (planes * 8 + (stores ? 1 : 0)) * sizeof(float) * kBlockTokens *
                          static_cast<size_t>(blocks);
    options.block_tokens = kBlockTokens;
    options.max_batch_tokens = 8 + Below(60);
    options.max_prefill_chunk = 1 + Below(40);
    options.max_running = 4 + Below(12);
    options.prefix_cache = Below(8) != 0;
    auto core = engine::EngineCore::Create(
        options, MakeHashBackend([this] { return failing_; }, seed % 2 == 0));
    if (!core.ok()) throw std::runtime_error(core.status().ToString());
    core_ = *std::move(core);
  }

  void Run(int64_t steps) {
    for (int64_t i = 0; i < steps && !::testing::Test::HasFailure(); ++i) {
      if (sinks_.size() < 60 && Below(100) < 30) Submit();
      if (Below(100) < 4) CancelOne();
      failing_ = Below(2000) == 0;
      Step();
    }
    failing_ = false;
    // The rest must end by itself: each step makes at least a token or a chunk.
    for (int64_t left = 60 * kMaxPositions * 4; core_->HasWork() && left > 0; --left) Step();
    EXPECT_FALSE(core_->HasWork()) << "requests that never end";
    EXPECT_TRUE(sinks_.empty());
    EXPECT_EQ(core_->cache().usage().blocks_used, 0);
    EXPECT_EQ(core_->cache().usage().score_blocks_used, 0);
    stored_scores = core_->cache().stores_scores();
    steps_ahead = core_->steps_ahead();
  }

  bool stored_scores = false;
  int64_t steps_ahead = 0;

  std::map<FinishReason, int64_t> reasons;
  int64_t preemptions = 0;

 private:
  int32_t Below(int32_t limit) {
    return static_cast<int32_t>(random_() % static_cast<uint64_t>(limit));
  }

  void Submit() {
    engine::Request request;
    request.id = std::to_string(++submitted_);
    // A few families of prompts, so that many begin alike.
    const auto family = static_cast<uint64_t>(Below(5));
    request.prompt = RandomPrompt(family, 1 + Below(48), kVocab);
    if (Below(3) == 0) request.prompt.back() = Below(kVocab);
    request.sampling = Greedy(1 + Below(Below(4) == 0 ? 40 : 10));
    request.n = Below(5) == 0 ? 2 + Below(2) : 1;
    if (Below(4) == 0) request.sampling.stop_ids = {Below(kVocab), Below(kVocab)};
    request.priority = Below(5) - 2;
    request.bypass_prefix_cache = Below(12) == 0;
    if (Below(6) == 0) request.cache_salt = "tenant";
    if (Below(20) == 0) request.prompt_logprobs = 0;
    const auto now = std::chrono::steady_clock::now();
    const auto soon = now + std::chrono::microseconds(Below(2000));
    if (Below(20) == 0) request.deadline = soon;
    if (Below(20) == 0) request.time_limit = soon;
    if (!core_->Validate(request).ok()) {
      ++refused_;
      return;
    }
    const auto sink = std::make_shared<CheckedSink>(request);
    sinks_.emplace(request.id, sink);
    core_->Add(std::move(request), sink, now);
  }

  void CancelOne() {
    if (sinks_.empty()) return;
    auto victim = sinks_.begin();
    std::advance(victim, Below(static_cast<int32_t>(sinks_.size())));
    const absl::Status status = absl::CancelledError("test");
    if (victim->second->request().n > 1 && Below(2) == 0) {
      core_->Finish(victim->first, Below(3), FinishReason::kCancelled, status);
    } else {
      EXPECT_TRUE(core_->Finish(victim->first, FinishReason::kCancelled, status));
      EXPECT_TRUE(victim->second->done());
    }
  }

  void Step() {
    core_->Step();
    const absl::Status status = core_->CheckIntegrity();
    ASSERT_TRUE(status.ok()) << status;
    for (auto it = sinks_.begin(); it != sinks_.end();) {
      if (!it->second->done()) {
        ++it;
        continue;
      }
      ++reasons[it->second->reason];
      preemptions += it->second->preemptions;
      it = sinks_.erase(it);
    }
  }

  std::mt19937_64 random_;
  ScratchDir scratch_;
  bool failing_ = false;
  std::unique_ptr<engine::EngineCore> core_;
  std::map<std::string, std::shared_ptr<CheckedSink>> sinks_;
  int64_t submitted_ = 0;
  int64_t refused_ = 0;
};

TEST(SoakTest, EveryRequestEndsOnceWithItsOwnTokens) {
  const auto steps = static_cast<int64_t>(FromEnvironment("STRATA_SOAK_STEPS", 100000));
  const uint64_t first = FromEnvironment("STRATA_SOAK_SEED", 1);
  constexpr uint64_t kRounds = 20;  // each with another pool, chunk size and batch
  std::map<FinishReason, int64_t> reasons;
  int64_t preemptions = 0;
  int storing = 0;
  int64_t steps_ahead = 0;
  for (uint64_t seed = first; seed < first + kRounds && !HasFailure(); ++seed) {
    SCOPED_TRACE("STRATA_SOAK_SEED=" + std::to_string(seed));
    Soak soak(seed);
    soak.Run(steps / static_cast<int64_t>(kRounds));
    for (const auto& [reason, count] : soak.reasons) reasons[reason] += count;
    preemptions += soak.preemptions;
    storing += soak.stored_scores ? 1 : 0;
    steps_ahead += soak.steps_ahead;
  }
  std::cout << steps << " steps from seed " << first << ": " << reasons[FinishReason::kLength]
            << " requests done, " << reasons[FinishReason::kCancelled] << " cancelled, "
            << reasons[FinishReason::kTimeLimit] << " at their time limit, "
            << reasons[FinishReason::kError] << " at their deadline or a device error, "
            << preemptions << " preemptions, " << steps_ahead << " steps ahead\n";
  for (const FinishReason reason :
       {FinishReason::kLength, FinishReason::kStop, FinishReason::kCancelled,
        FinishReason::kTimeLimit, FinishReason::kError}) {
    EXPECT_GT(reasons[reason], 0);
  }
  EXPECT_GT(preemptions, steps / 1000);
  EXPECT_GT(steps_ahead, steps / 50);
  EXPECT_GT(storing, 4) << "of " << kRounds << " rounds";
}

}  // namespace
}  // namespace strata::testing::soak_test
