// The gauges of a scrape against counts that the test makes itself, at every step of an engine that
// the test drives.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/serve/engine.h"
#include "gtest/gtest.h"
#include "server/telemetry/metrics.h"
#include "tests/server/metrics_text.h"
#include "tests/server/served_model.h"
#include "tests/support/engine_runner.h"
#include "tests/support/gated_backend.h"

namespace strata::testing::gauges_test {
namespace {

constexpr int32_t kBlockTokens = 16;
constexpr int32_t kMaxTokens = 40;
constexpr int32_t kMaxRunning = 2;

class IgnoringSink final : public engine::RequestSink {
 public:
  void OnStarted(const engine::StartedEvent&) override {}
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs>) override {}
  void OnToken(engine::TokenEvent) override {}
  void OnFinished(engine::FinishedEvent) override {}
};

// The expected state of a sequence: it waits until one of two places is free, takes all of its
// prompt in one step and then a token a step, and has blocks for the tokens that it has run and
// runs.
struct Expected {
  int32_t prompt = 0;
  int32_t step = 0;  // the sequence's own, from 1; 0: it waits

  bool done() const { return step > kMaxTokens; }
  bool runs() const { return step > 0 && !done(); }
  int32_t blocks() const {
    return runs() ? (prompt + step - 1 + kBlockTokens - 1) / kBlockTokens : 0;
  }
};

void StepAll(std::vector<Expected>* sequences) {
  int32_t running = 0;
  for (Expected& sequence : *sequences) {
    if (sequence.runs()) ++sequence.step;
    running += sequence.runs() ? 1 : 0;
  }
  for (Expected& sequence : *sequences) {
    if (sequence.step == 0 && running < kMaxRunning) {
      sequence.step = 1;
      ++running;
    }
  }
}

class GaugesTest : public ::testing::Test {
 protected:
  GaugesTest() {
    engine::EngineOptions options;
    options.model_dir = dir_.path();
    options.block_tokens = kBlockTokens;
    options.cache_bytes = size_t{1} << 18;
    options.max_running = kMaxRunning;
    options.prefix_cache = false;
    options.observer = &metrics_;
    options.make_backend = [this] { return std::make_unique<GatedBackend>(&gate_); };
    auto engine = engine::Engine::Create(options);
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    total_ = static_cast<int32_t>(engine_->model().cache_tokens / kBlockTokens);
  }
  ~GaugesTest() override { gate_.Open(); }

  void Submit(int32_t prompt) {
    engine::Request request;
    request.id = std::to_string(prompt);
    request.prompt = RandomPrompt(1, prompt, 200);
    request.sampling = Greedy(kMaxTokens);
    EXPECT_TRUE(engine_->Submit(std::move(request), std::make_shared<IgnoringSink>()).ok());
  }

  void CheckScrape(const std::vector<Expected>& sequences) {
    int32_t running = 0, waiting = 0, used = 0;
    for (const Expected& sequence : sequences) {
      running += sequence.runs() ? 1 : 0;
      waiting += sequence.step == 0 ? 1 : 0;
      used += sequence.blocks();
    }
    const std::string text = metrics_.Render(engine_->model(), engine_->load());
    const auto is = [&text](const std::string& series, int64_t value) {
      EXPECT_EQ(ValueOf(text, series), std::to_string(value)) << series;
    };
    is("vllm:num_requests_running", running);
    is("vllm:num_requests_waiting", waiting);
    is("strata_cache_blocks{state=\"used\"}", used);
    is("strata_cache_blocks{state=\"cached\"}", 0);
    is("strata_cache_blocks{state=\"free\"}", total_ - used);
    EXPECT_NEAR(std::stod(ValueOf(text, "vllm:kv_cache_usage_perc")),
                static_cast<double>(used) / total_, 1e-9);
    const int64_t block_keys = int64_t{kBlockTokens} * 4 * 4 * 8 * 4;  // layers, heads, head, float
    is("strata_cache_bytes{pool=\"keys\",state=\"used\"}", used * block_keys);
    // Every layer has the values of the first.
    is("strata_cache_bytes{pool=\"values\",state=\"used\"}", used * block_keys / 4);
  }

  TinyModelDir dir_;
  Gate gate_;
  server::Metrics metrics_;
  std::unique_ptr<engine::Engine> engine_;
  int32_t total_ = 0;
};

TEST_F(GaugesTest, AreWhatEachSequenceHoldsAtEveryStep) {
  std::vector<Expected> sequences = {{.prompt = 10}};
  CheckScrape({});
  Submit(10);
  gate_.Await();
  StepAll(&sequences);
  CheckScrape(sequences);
  for (const int32_t prompt : {17, 30, 3}) {  // these come during a step
    Submit(prompt);
    sequences.push_back({.prompt = prompt});
    CheckScrape(sequences);  // they wait before the engine has seen them
  }
  int32_t steps = 1;
  const auto done = [&sequences] { return std::ranges::all_of(sequences, &Expected::done); };
  for (;;) {
    gate_.LetOne();
    StepAll(&sequences);
    ++steps;
    if (done()) break;
    gate_.Await();
    CheckScrape(sequences);
    if (HasFailure()) break;
  }
  EXPECT_EQ(steps, 1 + 2 * kMaxTokens + 1);
  for (int i = 0; i < 5000 && engine_->load().running > 0; ++i) {  // of the last step
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  CheckScrape(sequences);
}

}  // namespace
}  // namespace strata::testing::gauges_test
