// Memory that runs out, a device that fails in mid-step, a clock that jumps.
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/hash_backend.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"
#include "tests/support/waiting_sink.h"

namespace strata::testing::faults_test {
namespace {

using engine::EngineCore;
using engine::FinishReason;
using std::chrono::hours;
using std::chrono::seconds;

constexpr int32_t kVocab = 61;
constexpr int32_t kBlockTokens = 4;
constexpr int32_t kBlocks = 40;

// Refuses allocation number `*countdown`, from 0; -1: none.
class ForgetfulBackend final : public NullBackend {
 public:
  explicit ForgetfulBackend(int* countdown) : countdown_(countdown) {}
  absl::StatusOr<std::unique_ptr<kernels::Buffer>> Allocate(size_t bytes) override {
    if ((*countdown_)-- == 0) return absl::ResourceExhaustedError("no memory, says the test");
    return NullBackend::Allocate(bytes);
  }

 private:
  int* const countdown_;
};

class FaultsTest : public ::testing::Test {
 protected:
  FaultsTest() {
    options_.model_dir = WriteModelDir(
        MakeTinyModel(
            {.attention = {.num_layers = 1, .num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8},
             .hidden_size = 8,
             .intermediate_size = 8,
             .vocab_size = kVocab,
             .max_positions = 96}),
        scratch_.path());
    options_.block_tokens = kBlockTokens;
    options_.cache_bytes = size_t{2} * 8 * sizeof(float) * kBlockTokens * kBlocks;
  }

  std::unique_ptr<EngineCore> Make(std::unique_ptr<kernels::Backend> backend) const {
    auto core = EngineCore::Create(options_, std::move(backend));
    EXPECT_TRUE(core.ok()) << core.status();
    return *std::move(core);
  }
  static std::shared_ptr<Recording> Add(EngineCore* core, engine::Request request,
                                        engine::Request::Time submitted) {
    EXPECT_TRUE(core->Validate(request).ok());
    auto sink = std::make_shared<Recording>();
    core->Add(std::move(request), sink, submitted);
    return sink;
  }
  static std::shared_ptr<Recording> Add(EngineCore* core, const std::string& id) {
    return Add(core, Request(id), std::chrono::steady_clock::now());
  }
  static engine::Request Request(const std::string& id) {
    engine::Request request;
    request.id = id;
    request.prompt = RandomPrompt(std::hash<std::string>()(id), 9, kVocab);
    request.sampling = Greedy(8);
    return request;
  }
  static void Run(EngineCore* core) {
    while (core->HasWork()) {
      core->Step();
      ASSERT_TRUE(core->CheckIntegrity().ok()) << core->CheckIntegrity();
    }
    EXPECT_EQ(core->cache().usage().blocks_used, 0);
  }
  static void ExpectWhole(const Recording& recording) {
    EXPECT_EQ(recording.end.reason, FinishReason::kLength) << recording.end.status;
    EXPECT_EQ(recording.tokens.size(), 8U);
    EXPECT_EQ(recording.num_finished, 1);
  }
  static void ExpectFailed(const Recording& recording, absl::StatusCode code) {
    EXPECT_EQ(recording.end.reason, FinishReason::kError);
    EXPECT_EQ(recording.end.status.code(), code) << recording.end.status;
    EXPECT_EQ(recording.num_finished, 1);
  }

  const ScratchDir scratch_;
  engine::EngineOptions options_;
};

TEST_F(FaultsTest, MemoryThatCannotBeHadAtTheStartIsAnErrorInWords) {
  int refused = 0;
  for (;; ++refused) {
    int countdown = refused;
    const auto core = EngineCore::Create(options_, std::make_unique<ForgetfulBackend>(&countdown));
    if (core.ok()) break;
    EXPECT_EQ(core.status().code(), absl::StatusCode::kResourceExhausted) << core.status();
    EXPECT_NE(core.status().message().find("no memory, says the test"), std::string::npos);
    ASSERT_LT(refused, 1000);
  }
  EXPECT_GE(refused, 3) << "weights, scratch, the cache";
}

// The logits' buffer grows with the batch.
TEST_F(FaultsTest, MemoryThatCannotBeHadInAStepEndsThatStepsRequests) {
  int countdown = -1;
  const auto core = Make(std::make_unique<ForgetfulBackend>(&countdown));
  const auto first = Add(core.get(), "first");
  countdown = 0;
  core->Step();
  ExpectFailed(*first, absl::StatusCode::kInternal);
  EXPECT_NE(first->end.status.message().find("no memory, says the test"), std::string::npos);
  const auto second = Add(core.get(), "second");
  Run(core.get());
  ExpectWhole(*second);
}

TEST_F(FaultsTest, ADeviceThatFailsEndsEveryRequest) {
  bool failing = false;
  options_.max_running = 3;
  const auto core = Make(MakeHashBackend([&failing] { return failing; }));
  std::vector<std::shared_ptr<Recording>> running;
  for (const char* id : {"a", "b", "c"}) running.push_back(Add(core.get(), id));
  const auto waiting = Add(core.get(), "waiting");
  core->Step();
  core->Step();
  for (const auto& recording : running) EXPECT_EQ(recording->tokens.size(), 2U);
  EXPECT_EQ(waiting->num_started, 0);
  EXPECT_TRUE(core->failure().ok());
  failing = true;
  core->Step();
  for (const auto& recording : running) {
    ExpectFailed(*recording, absl::StatusCode::kInternal);
    EXPECT_EQ(recording->tokens.size(), 2U);
  }
  ExpectFailed(*waiting, absl::StatusCode::kInternal);
  EXPECT_EQ(core->cache().usage().blocks_used, 0);
  EXPECT_EQ(core->failure(), absl::InternalError("the device failed"));
}

TEST_F(FaultsTest, AnEngineWhoseDeviceHasFailedTakesNoMore) {
  std::atomic<bool> failing = false;
  options_.make_backend = [&failing] {
    return MakeHashBackend([&failing] { return failing.load(); });
  };
  const auto engine = engine::Engine::Create(options_).value();
  const auto whole = std::make_shared<WaitingSink>();
  ASSERT_TRUE(engine->Submit(Request("whole"), whole).ok());
  ExpectWhole(whole->Result());
  EXPECT_TRUE(engine->failure().ok());
  const auto broken = std::make_shared<WaitingSink>();
  broken->on_token = [&failing](int) { failing = true; };
  ASSERT_TRUE(engine->Submit(Request("broken"), broken).ok());
  ExpectFailed(broken->Result(), absl::StatusCode::kInternal);
  EXPECT_EQ(broken->Now().tokens.size(), 1U);
  absl::Status refused;
  while (refused.code() != absl::StatusCode::kUnavailable) {  // the engine's thread is about to end
    refused = engine->Submit(Request("late"), std::make_shared<WaitingSink>());
  }
  EXPECT_EQ(refused.message(), "the device has failed: the device failed");
  EXPECT_EQ(engine->failure(), absl::InternalError("the device failed"));
  EXPECT_EQ(engine->load().running + engine->load().waiting, 0);
  engine->Shutdown(std::chrono::hours(1));  // returns at once
}

// The engine does not use the system's clock (includes_test.py). The steady clock may still leap
// after a machine slept: the engine then sees requests that came an hour ago with all their times.
TEST_F(FaultsTest, AClockThatLeapsAnHourEndsWhatHasALimitAndKeepsTheOrder) {
  static_assert(engine::Request::Time::clock::is_steady);
  const auto now = std::chrono::steady_clock::now();
  const auto before = now - hours(1);
  options_.max_running = 1;
  const auto core = Make(MakeHashBackend());
  engine::Request limited = Request("limited");
  limited.time_limit = before + seconds(30);
  engine::Request late = Request("late");
  late.deadline = before + seconds(30);
  engine::Request low = Request("low");
  low.priority = 1;
  engine::Request patient = Request("patient");
  patient.deadline = now + hours(1);
  const auto limited_end = Add(core.get(), limited, before);
  const auto late_end = Add(core.get(), late, before);
  const auto low_end = Add(core.get(), low, before);
  const auto patient_end = Add(core.get(), patient, before + seconds(5));
  const auto fresh_end = Add(core.get(), "fresh");
  core->Step();
  EXPECT_EQ(limited_end->end.reason, FinishReason::kTimeLimit);
  EXPECT_EQ(limited_end->num_started, 1);
  ExpectFailed(*late_end, absl::StatusCode::kDeadlineExceeded);
  // A level of priority is worth 10 s of waiting: low ranks 5 s after patient, and before fresh.
  EXPECT_EQ(patient_end->num_started, 1);
  EXPECT_EQ(low_end->num_started, 0);
  while (patient_end->num_finished == 0) core->Step();
  core->Step();
  EXPECT_EQ(low_end->num_started, 1);
  EXPECT_EQ(fresh_end->num_started, 0);
  Run(core.get());
  for (const auto& end : {low_end, patient_end, fresh_end}) ExpectWhole(*end);
  EXPECT_GE(patient_end->end.metrics.queue_seconds, 3590);
  EXPECT_LT(patient_end->end.metrics.decode_seconds, 3000) << "the leap was before";
  EXPECT_GE(fresh_end->end.metrics.queue_seconds, 0);
}

}  // namespace
}  // namespace strata::testing::faults_test
