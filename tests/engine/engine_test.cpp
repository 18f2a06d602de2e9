// The engine with its thread: many callers, ends of every kind, one end for each request.
#include "engine/serve/engine.h"

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "engine/serve/engine_core.h"
#include "gtest/gtest.h"
#include "tests/support/engine_runner.h"
#include "tests/support/hash_backend.h"
#include "tests/support/tiny_model.h"
#include "tests/support/waiting_sink.h"

namespace strata::testing::engine_test {
namespace {

using engine::Engine;
using engine::FinishReason;
using engine::Request;
using std::chrono::milliseconds;

class EngineTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> MakeEngine(int32_t max_running = 16, int32_t max_queue = 1024) {
    auto engine = Engine::Create(Options(max_running, max_queue));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  engine::EngineOptions Options(int32_t max_running, int32_t max_queue) {
    return {.model_dir = dir_,
            .device = "cpu",
            .threads = 1,
            .cross_layer = {},
            .cache_bytes = size_t{8} << 20,
            .max_prefill_chunk = 16,
            .max_running = max_running,
            .max_queue = max_queue};
  }
  static Request Make(const std::string& id, int32_t prompt = 5, int32_t max_tokens = 10) {
    return {.id = id,
            .prompt = RandomPrompt(std::hash<std::string>()(id), prompt, 96),
            .sampling = Greedy(max_tokens)};
  }
  // A request whose first token finds the engine's thread waiting at `gate`.
  static std::shared_ptr<WaitingSink> HeldAtToken(int token, Gate& reached, Gate& gate) {
    auto sink = std::make_shared<WaitingSink>();
    sink->on_token = [token, &reached, &gate](int count) {
      if (count != token) return;
      reached.Open();
      gate.Pass();
    };
    return sink;
  }
  static void ExpectOneEnd(const Recording& recording) {
    EXPECT_TRUE(recording.in_order);
    EXPECT_EQ(recording.num_finished, 1);
    EXPECT_LE(recording.num_started, 1);
  }

  ScratchDir scratch_;
  const std::filesystem::path dir_ =
      WriteModelDir(MakeTinyModel({.cross_layer = {{"preset", "svformer"}}}), scratch_.path());
};

TEST_F(EngineTest, SeveralAreQueuedTogetherOrNotAtAll) {
  const auto engine = MakeEngine(/*max_running=*/4, /*max_queue=*/4);
  const auto submit = [&](std::vector<Request> requests) {
    std::vector<Engine::Submission> submissions;
    for (Request& request : requests) {
      submissions.push_back({std::move(request), std::make_shared<WaitingSink>()});
    }
    return engine->Submit(std::move(submissions));
  };
  Request wrong = Make("c");
  wrong.prompt[2] = -1;
  EXPECT_EQ(submit({Make("a"), Make("b"), wrong}).message(),
            "prompt[2]: id -1 at 2 is not in 0..95");
  EXPECT_EQ(submit({Make("a"), Make("b"), Make("a")}).code(), absl::StatusCode::kAlreadyExists);
  // The right ones of a refused list leave nothing behind.
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  std::vector<Engine::Submission> submissions;
  for (const char* id : {"a", "b", "c"}) {
    sinks.push_back(std::make_shared<WaitingSink>());
    submissions.push_back({Make(id), sinks.back()});
  }
  ASSERT_TRUE(engine->Submit(std::move(submissions)).ok());
  for (const auto& sink : sinks) ExpectOneEnd(sink->Result());
}

TEST_F(EngineTest, AQueueTakesAListThatFitsItWhole) {
  const auto engine = MakeEngine(/*max_running=*/1, /*max_queue=*/3);
  Gate reached, gate;
  auto held = HeldAtToken(1, reached, gate);
  ASSERT_TRUE(engine->Submit(Make("held"), held).ok());
  reached.Pass();
  const auto submit = [&](int first, int count) {
    std::vector<Engine::Submission> submissions;
    for (int i = 0; i < count; ++i) {
      submissions.push_back({Make(std::to_string(first + i)), std::make_shared<WaitingSink>()});
    }
    return engine->Submit(std::move(submissions));
  };
  EXPECT_TRUE(submit(0, 2).ok());
  EXPECT_EQ(submit(10, 2).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(submit(20, 1).ok());
  gate.Open();
}

TEST_F(EngineTest, ManyCallersGetTheirOwnAnswers) {
  constexpr int kThreads = 8;
  constexpr int kRequests = 12;
  const auto name = [](int t, int r) { return std::to_string(t) + "/" + std::to_string(r); };
  std::vector<std::vector<std::shared_ptr<WaitingSink>>> sinks(kThreads);
  const auto engine = MakeEngine();
  {
    std::vector<std::jthread> callers;
    for (int t = 0; t < kThreads; ++t) {
      callers.emplace_back([&, t] {
        for (int r = 0; r < kRequests; ++r) {
          auto& mine = sinks[static_cast<size_t>(t)];
          mine.push_back(std::make_shared<WaitingSink>());
          EXPECT_TRUE(engine->Submit(Make(name(t, r), 1 + 3 * r, 1 + t), mine.back()).ok());
          if (r % 3 == 2) mine.back()->Result();  // some wait, some pile up
        }
      });
    }
  }
  EngineRunner alone(Options(16, 1024));
  for (int t = 0; t < kThreads; ++t) {
    for (int r = 0; r < kRequests; ++r) {
      const Request request = Make(name(t, r), 1 + 3 * r, 1 + t);
      alone.MustSubmit(request.id, request.prompt, request.sampling);
      alone.Run();
      const Recording got = sinks[static_cast<size_t>(t)][static_cast<size_t>(r)]->Result();
      ExpectOneEnd(got);
      EXPECT_EQ(got.end.reason, FinishReason::kLength);
      EXPECT_EQ(got.tokens, alone[request.id].tokens);
    }
  }
  // The load is updated once a step; the last update follows the last event.
  for (int i = 0; i < 1000 && engine->load().running > 0; ++i) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(engine->load().running, 0);
  EXPECT_EQ(engine->load().waiting, 0);
  EXPECT_EQ(engine->load().blocks_used, 0);
  EXPECT_GT(engine->load().blocks_total, 0);
}

TEST_F(EngineTest, AnIdServesOneRequestAtATime) {
  Gate reached;
  Gate gate;
  const auto engine = MakeEngine();
  const auto sink = HeldAtToken(1, reached, gate);
  ASSERT_TRUE(engine->Submit(Make("a"), sink).ok());
  reached.Pass();
  const auto second = std::make_shared<WaitingSink>();
  const absl::Status status = engine->Submit(Make("a"), second);
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_NE(status.message().find("\"a\""), absl::string_view::npos) << status;
  gate.Open();
  ExpectOneEnd(sink->Result());
  ASSERT_TRUE(engine->Submit(Make("a"), second).ok());  // free as soon as its end is known
  ExpectOneEnd(second->Result());
}

TEST_F(EngineTest, RefusedRequestsReachNoSink) {
  const auto engine = MakeEngine();
  const auto sink = std::make_shared<WaitingSink>();
  EXPECT_TRUE(absl::IsInvalidArgument(engine->Submit(Make("a", 0), sink)));
  EXPECT_TRUE(absl::IsInvalidArgument(engine->Submit(Make("a", 5, -1), sink)));
  ASSERT_TRUE(engine->Submit(Make("a"), sink).ok());
  ExpectOneEnd(sink->Result());
}

TEST_F(EngineTest, AFullQueueRefuses) {
  Gate reached;
  Gate gate;
  const auto engine = MakeEngine(/*max_running=*/1, /*max_queue=*/2);
  // At the second token the load shows one running request and none waiting.
  const auto sink = HeldAtToken(2, reached, gate);
  ASSERT_TRUE(engine->Submit(Make("running"), sink).ok());
  reached.Pass();
  const auto first = std::make_shared<WaitingSink>();
  const auto second = std::make_shared<WaitingSink>();
  EXPECT_TRUE(engine->Submit(Make("first"), first).ok());
  EXPECT_TRUE(engine->Submit(Make("second"), second).ok());
  const absl::Status status = engine->Submit(Make("third"), std::make_shared<WaitingSink>());
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_NE(status.message().find("2"), absl::string_view::npos) << status;
  gate.Open();
  ExpectOneEnd(first->Result());
  ExpectOneEnd(second->Result());
  const auto third = std::make_shared<WaitingSink>();
  EXPECT_TRUE(engine->Submit(Make("third"), third).ok());
  ExpectOneEnd(third->Result());
}

TEST_F(EngineTest, CancelEndsRunningAndQueuedRequests) {
  Gate reached;
  Gate gate;
  const auto engine = MakeEngine(/*max_running=*/1);
  const auto running = HeldAtToken(3, reached, gate);
  const auto queued = std::make_shared<WaitingSink>();
  const auto other = std::make_shared<WaitingSink>();
  ASSERT_TRUE(engine->Submit(Make("running", 5, 200), running).ok());
  ASSERT_TRUE(engine->Submit(Make("queued"), queued).ok());
  ASSERT_TRUE(engine->Submit(Make("other"), other).ok());
  reached.Pass();
  engine->Cancel("running");
  engine->Cancel("queued");
  engine->Cancel("nobody");
  gate.Open();
  for (const auto& sink : {running, queued}) {
    const Recording recording = sink->Result();
    ExpectOneEnd(recording);
    EXPECT_EQ(recording.end.reason, FinishReason::kCancelled);
    EXPECT_TRUE(absl::IsCancelled(recording.end.status));
  }
  EXPECT_EQ(running->Now().tokens.size(), 3U);  // not one more step
  EXPECT_EQ(queued->Now().num_started, 0);
  EXPECT_EQ(other->Result().end.reason, FinishReason::kLength);
}

// A cancel during the last token finds its request gone, and must not touch the id's next owner.
TEST_F(EngineTest, ALateCancelSparesTheNextOwnerOfTheId) {
  Gate reached;
  Gate gate;
  Gate resubmitted;
  const auto engine = MakeEngine();
  const auto first = HeldAtToken(10, reached, gate);
  first->on_finished = [&resubmitted] { resubmitted.Pass(); };
  ASSERT_TRUE(engine->Submit(Make("a", 5, 10), first).ok());
  reached.Pass();
  engine->Cancel("a");
  gate.Open();
  EXPECT_EQ(first->Result().end.reason, FinishReason::kLength);
  const auto second = std::make_shared<WaitingSink>();
  ASSERT_TRUE(engine->Submit(Make("a"), second).ok());
  resubmitted.Open();
  EXPECT_EQ(second->Result().end.reason, FinishReason::kLength);
}

TEST_F(EngineTest, APatientShutdownFinishesTheWork) {
  const auto engine = MakeEngine(/*max_running=*/2);
  std::vector<std::shared_ptr<WaitingSink>> sinks;
  for (int i = 0; i < 6; ++i) {
    sinks.push_back(std::make_shared<WaitingSink>());
    ASSERT_TRUE(engine->Submit(Make(std::to_string(i), 20, 30), sinks.back()).ok());
  }
  engine->Shutdown(milliseconds(120'000));
  for (const auto& sink : sinks) {
    const Recording recording = sink->Now();  // everything has ended when Shutdown returns
    ExpectOneEnd(recording);
    EXPECT_EQ(recording.end.reason, FinishReason::kLength);
  }
  const absl::Status status = engine->Submit(Make("late"), std::make_shared<WaitingSink>());
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  engine->Shutdown(milliseconds(0));
}

TEST_F(EngineTest, AnImpatientShutdownEndsTheRest) {
  Gate reached;
  Gate gate;
  const auto engine = MakeEngine(/*max_running=*/1);
  const auto running = HeldAtToken(2, reached, gate);
  const auto queued = std::make_shared<WaitingSink>();
  ASSERT_TRUE(engine->Submit(Make("running", 5, 200), running).ok());
  ASSERT_TRUE(engine->Submit(Make("queued"), queued).ok());
  reached.Pass();
  std::jthread closer([&] { engine->Shutdown(milliseconds(0)); });
  while (!absl::IsUnavailable(engine->Submit(Make("running"), running))) std::this_thread::yield();
  gate.Open();
  closer.join();
  for (const auto& sink : {running, queued}) {
    const Recording recording = sink->Now();
    ExpectOneEnd(recording);
    EXPECT_EQ(recording.end.reason, FinishReason::kError);
    EXPECT_TRUE(absl::IsUnavailable(recording.end.status)) << recording.end.status;
  }
}

TEST_F(EngineTest, TheDestructorEndsWhatRuns) {
  const auto sink = std::make_shared<WaitingSink>();
  Gate reached;
  Gate gate;
  gate.Open();
  const auto running = HeldAtToken(1, reached, gate);
  {
    const auto engine = MakeEngine();
    ASSERT_TRUE(engine->Submit(Make("a", 5, 400), running).ok());
    reached.Pass();
    ASSERT_TRUE(engine->Submit(Make("b", 5, 400), sink).ok());
  }
  ExpectOneEnd(running->Now());
  ExpectOneEnd(sink->Now());
  EXPECT_TRUE(absl::IsUnavailable(sink->Now().end.status)) << sink->Now().end.status;
}

// Callers, cancels and a shutdown at once: every accepted request ends exactly once.
TEST_F(EngineTest, EveryAcceptedRequestEndsOnce) {
  const auto engine = MakeEngine(/*max_running=*/4, /*max_queue=*/8);
  std::vector<std::vector<std::shared_ptr<WaitingSink>>> accepted(4);
  std::atomic<int> total = 0;
  {
    std::vector<std::jthread> callers;
    for (size_t t = 0; t < accepted.size(); ++t) {
      callers.emplace_back([&, t] {
        for (int r = 0;; ++r) {
          const std::string id = std::to_string(t) + "/" + std::to_string(r);
          auto sink = std::make_shared<WaitingSink>();
          const absl::Status status = engine->Submit(Make(id, 1 + r % 30, 1 + r % 40), sink);
          if (absl::IsUnavailable(status)) return;
          if (!status.ok()) {
            EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
            std::this_thread::yield();
            continue;
          }
          accepted[t].push_back(std::move(sink));
          ++total;
          if (r % 4 == 3) engine->Cancel(id);
        }
      });
    }
    while (total < 100) std::this_thread::yield();
    engine->Shutdown(milliseconds(5));
  }
  for (const auto& sinks : accepted) {
    for (const auto& sink : sinks) ExpectOneEnd(sink->Now());
  }
}

TEST(EngineCreateTest, SaysWhatIsWrong) {
  const auto engine = Engine::Create({.model_dir = "/no/such/model", .cross_layer = {}});
  EXPECT_TRUE(absl::IsNotFound(engine.status())) << engine.status();
  EXPECT_NE(engine.status().message().find("/no/such/model"), absl::string_view::npos);
}

// Each of the batch's sequences is a block of a CUDA grid, whose third dimension ends at 65,535.
TEST_F(EngineTest, ThereAreNoMoreSequencesThanADeviceTakes) {
  EXPECT_EQ(Engine::Create(Options(32769, 8)).status().message(),
            "max-running: 32769 is not in 1..32768");
  EXPECT_TRUE(Engine::Create(Options(32768, 8)).ok());
}

TEST(EngineCreateTest, F16RunsAsItIsWhereTheBackendHasIt) {
  const auto dir =
      WriteModelDir(MakeTinyModel({.dtype = kernels::ElementType::kF16}), ::testing::TempDir());
  const engine::EngineOptions options = {
      .model_dir = dir, .device = "cpu", .cross_layer = {}, .cache_bytes = size_t{1} << 20};
  const auto on_cpu = engine::EngineCore::Create(options);
  ASSERT_TRUE(on_cpu.ok()) << on_cpu.status();
  EXPECT_EQ((*on_cpu)->model().dtype, "f32");
  EXPECT_EQ((*on_cpu)->model().plan.dtype, "f32");
  const auto with_f16 = engine::EngineCore::Create(options, MakeHashBackend());
  ASSERT_TRUE(with_f16.ok()) << with_f16.status();
  EXPECT_EQ((*with_f16)->model().dtype, "f16");
  EXPECT_EQ((*with_f16)->model().plan.dtype, "f16");
}

}  // namespace
}  // namespace strata::testing::engine_test
