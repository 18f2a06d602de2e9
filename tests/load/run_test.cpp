#include "tests/load/run.h"

#include <atomic>

#include "tests/load/simulated.h"
#include "tests/load/statistics.h"

namespace strata::testing::load_run_test {
namespace {

using load::Measure;
using load::Measures;
using load::Outcome;
using load::Record;
using load::RunResult;
using load::Schedule;
using load::Time;
using load::Workload;
using std::chrono::milliseconds;
using std::chrono::seconds;

load::WorkloadOptions FixedWorkload() {
  return {.input = load::Lengths::Constant(10),
          .output = load::Lengths::Constant(5),
          .vocab_size = 100,
          .max_positions = 1000};
}

// A run over a simulated server.
struct Simulation {
  explicit Simulation(SimulatedTransport::Script script,
                      load::WorkloadOptions options = FixedWorkload())
      : workload(std::move(options)), transport(&clock, std::move(script)) {}

  RunResult Go(const Schedule& schedule) {
    load::Run run(schedule, &workload, &transport, &clock);
    return run.Go(interrupted, /*keep_text=*/true, watch);
  }

  SetClock clock;
  Workload workload;
  SimulatedTransport transport;
  std::atomic<bool> interrupted = false;
  load::Run::Watch watch = nullptr;
};

Schedule Base() { return {.drain = seconds(30), .limit = seconds(100)}; }

const load::Latency& Of(const Measures& measures, const std::string& key) {
  for (const load::Latency& latency : measures.latencies) {
    if (latency.key == key) return latency;
  }
  throw std::out_of_range(key);
}

TEST(LoadRunTest, AClosedLoopIsExact) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return Answer(milliseconds(100), milliseconds(20), 5);
  });
  Schedule schedule = Base();
  schedule.users = 2;
  schedule.think = milliseconds(50);
  schedule.max_requests = 6;
  const RunResult run = simulation.Go(schedule);
  ASSERT_EQ(run.records.size(), 6U);
  for (size_t i = 0; i < 6; ++i) {
    const Record& record = run.records[i];
    // Two at a time; each takes 180 ms, then a pause of 50 ms follows.
    const Time began = milliseconds(230) * (static_cast<int>(i) / 2);
    EXPECT_EQ(record.outcome, Outcome::kCompleted);
    EXPECT_EQ(record.intended, began);
    EXPECT_EQ(record.sent, began);
    EXPECT_EQ(record.end, began + milliseconds(180));
    ASSERT_EQ(record.arrivals.size(), 5U);
    EXPECT_EQ(record.arrivals[4].at(), began + milliseconds(180));
    EXPECT_EQ(record.text, " word word word word word");
    EXPECT_EQ(record.server->preemptions, 1);
  }
  const Measures measures = Measure(run, {});
  EXPECT_DOUBLE_EQ(measures.duration, 0.64);
  EXPECT_EQ(measures.completed, 6);
  EXPECT_EQ(measures.total_output_tokens, 30);
  EXPECT_DOUBLE_EQ(measures.request_throughput, 6 / 0.64);
  EXPECT_DOUBLE_EQ(measures.output_throughput, 30 / 0.64);
  EXPECT_DOUBLE_EQ(measures.input_throughput, 60 / 0.64);
  EXPECT_DOUBLE_EQ(measures.output_throughput_per_user, 50);
  EXPECT_EQ(measures.max_concurrent_requests, 2);
  EXPECT_DOUBLE_EQ(Of(measures, "ttft").summary.mean, 100);
  EXPECT_DOUBLE_EQ(Of(measures, "ttst").summary.mean, 120);
  EXPECT_DOUBLE_EQ(Of(measures, "tpot").summary.max, 20);
  EXPECT_DOUBLE_EQ(Of(measures, "itl").summary.max, 20);
  EXPECT_EQ(Of(measures, "itl").summary.count, 24);
  EXPECT_DOUBLE_EQ(Of(measures, "e2el").summary.max, 180);
  EXPECT_DOUBLE_EQ(Of(measures, "client_queue_time").summary.max, 0);
  EXPECT_EQ(measures.preemptions, 6);
}

// A server that stands still for two seconds delays every request intended during that time; the
// open loop goes on sending.
TEST(LoadRunTest, AServersStallIsSeenByAllThatWereDue) {
  SetClock* clock = nullptr;
  Simulation simulation([&clock](uint64_t, const v1::GenerateRequest&) {
    const Time stall_end = seconds(3);
    const bool stalled = clock->now >= seconds(1) && clock->now < stall_end;
    const Time first = stalled ? stall_end - clock->now : Time(0);
    return Answer(first + milliseconds(10), milliseconds(1), 2);
  });
  clock = &simulation.clock;
  Schedule schedule = Base();
  schedule.arrivals = load::Arrivals::Options{
      .rate = 10, .burstiness = std::numeric_limits<double>::infinity(), .end_rate = {}};
  schedule.max_requests = 40;
  const RunResult run = simulation.Go(schedule);
  std::vector<double> expected;
  for (int i = 1; i <= 40; ++i) {
    const double intended = 100.0 * i;
    expected.push_back(intended >= 1000 && intended < 3000 ? 3010 - intended : 10);
  }
  const load::Summary wanted = load::Summarize(expected);
  const load::Summary got = Of(Measure(run, {}), "ttft").summary;
  EXPECT_EQ(got.count, 40);
  EXPECT_NEAR(got.mean, wanted.mean, 1e-6);  // a rate's moments are rounded to nanoseconds
  EXPECT_NEAR(got.max, 2010, 1e-6);
  for (size_t i = 0; i < wanted.percentiles.size(); ++i) {
    EXPECT_NEAR(got.percentiles[i].second, wanted.percentiles[i].second, 1e-6);
  }
}

// A client that stands still sends late; requests intended meanwhile have waited all the same.
TEST(LoadRunTest, AClientsStallCountsFromTheIntendedTime) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return Answer(milliseconds(10), milliseconds(1), 2);
  });
  bool stalled = false;
  simulation.transport.on_event = [&](uint64_t stream) {
    if (stream == 4 && !std::exchange(stalled, true)) simulation.clock.now += seconds(1);
  };
  Schedule schedule = Base();
  schedule.arrivals = load::Arrivals::Options{
      .rate = 10, .burstiness = std::numeric_limits<double>::infinity(), .end_rate = {}};
  schedule.max_requests = 20;
  const RunResult run = simulation.Go(schedule);
  // The fifth is sent at 500 ms; its first message comes at 510 and is handled at 1510.
  for (size_t i = 0; i < run.records.size(); ++i) {
    const Record& record = run.records[i];
    const double intended = 100.0 * static_cast<double>(i + 1);
    const double sent = intended > 510 && intended < 1510 ? 1510 : intended;
    EXPECT_NEAR(load::Seconds(record.intended) * 1e3, intended, 1e-6) << i;
    EXPECT_NEAR(load::Seconds(record.sent) * 1e3, sent, 1e-6) << i;
    if (i == 4) continue;  // its own messages were late
    EXPECT_NEAR(load::FirstTokenMs(record), sent + 10 - intended, 1e-6) << i;
  }
  EXPECT_NEAR(Of(Measure(run, {}), "client_queue_time").summary.max, 910, 1e-6);
}

TEST(LoadRunTest, MessagesOfSeveralTokensShareTheirWait) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return std::vector<Reaction>{{.after = milliseconds(50), .tokens = 1},
                                 {.after = milliseconds(80), .tokens = 3},
                                 {.after = milliseconds(90), .tokens = 1},
                                 {.after = milliseconds(95)}};
  });
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 1;
  const Measures measures = Measure(simulation.Go(schedule), {});
  EXPECT_EQ(Of(measures, "itl").summary.count, 4);
  EXPECT_DOUBLE_EQ(Of(measures, "itl").summary.mean, 10);
  EXPECT_EQ(Of(measures, "message_gap").summary.count, 2);
  EXPECT_DOUBLE_EQ(Of(measures, "message_gap").summary.max, 30);
  EXPECT_DOUBLE_EQ(Of(measures, "tpot").summary.mean, 10);
  EXPECT_DOUBLE_EQ(Of(measures, "ttst").summary.mean, 80);
  EXPECT_DOUBLE_EQ(Of(measures, "e2el").summary.mean, 95);
}

TEST(LoadRunTest, WarmUpAndCoolDownAreCut) {
  Simulation simulation([](uint64_t stream, const v1::GenerateRequest&) {
    // Slow at the beginning and at the end.
    const bool edge = stream < 2 || stream >= 8;
    return Answer(milliseconds(edge ? 90 : 10), milliseconds(1), 1);
  });
  Schedule schedule = Base();
  schedule.arrivals = load::Arrivals::Options{
      .rate = 10, .burstiness = std::numeric_limits<double>::infinity(), .end_rate = {}};
  schedule.duration = milliseconds(1050);
  schedule.warm_up = milliseconds(250);
  schedule.cool_down = milliseconds(200);
  const RunResult run = simulation.Go(schedule);
  EXPECT_EQ(run.records.size(), 10U);
  const Measures measures = Measure(run, {});
  EXPECT_EQ(measures.requests, 6);  // at 300 ... 800 ms
  EXPECT_DOUBLE_EQ(measures.duration, 0.6);
  EXPECT_NEAR(Of(measures, "ttft").summary.max, 10, 1e-6);
  EXPECT_DOUBLE_EQ(measures.output_throughput, 7 / 0.6);  // the second's answer, at 290 ms, too
}

TEST(LoadRunTest, ConcurrencyIsBoundedAndWhatWaitsIsCounted) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return Answer(milliseconds(400), milliseconds(1), 1);
  });
  Schedule schedule = Base();
  schedule.arrivals = load::Arrivals::Options{
      .rate = 10, .burstiness = std::numeric_limits<double>::infinity(), .end_rate = {}};
  schedule.duration = milliseconds(1050);
  schedule.max_concurrency = 2;
  const RunResult run = simulation.Go(schedule);
  // Two every 400 ms: at 100, 200, 500, 600, 900, 1000; four of ten never.
  ASSERT_EQ(run.records.size(), 6U);
  EXPECT_EQ(run.unsent, 4);
  EXPECT_EQ(Measure(run, {}).max_concurrent_requests, 2);
  EXPECT_NEAR(load::Seconds(run.records[5].sent - run.records[5].intended), 0.4, 1e-9);
  EXPECT_NEAR(load::FirstTokenMs(run.records[5]), 800, 1e-6);
}

TEST(LoadRunTest, CancelsAreMadeAndCountedApart) {
  load::WorkloadOptions options = FixedWorkload();
  options.cancel_share = 1;
  Simulation simulation(
      [](uint64_t, const v1::GenerateRequest&) {
        return Answer(milliseconds(10), milliseconds(10), 5);
      },
      options);
  Schedule schedule = Base();
  schedule.users = 3;
  schedule.max_requests = 200;
  const RunResult run = simulation.Go(schedule);
  std::vector<int> seen(6);
  for (const Record& record : run.records) {
    EXPECT_EQ(record.outcome, Outcome::kCancelled);
    ASSERT_LE(record.output_tokens, 4);
    ++seen[static_cast<size_t>(record.output_tokens)];
  }
  // Cancelled after 0 or 1 tokens: with the first message. After 2, 3, 4: with as many.
  for (size_t tokens = 1; tokens < 5; ++tokens) EXPECT_GT(seen[tokens], 15) << tokens;
  const Measures measures = Measure(run, {.ttft = 1000});
  EXPECT_EQ(measures.cancelled, 200);
  EXPECT_EQ(measures.completed + measures.failed, 0);
  EXPECT_FALSE(measures.good_share);
  EXPECT_EQ(Of(measures, "ttft").summary.count, 0);
}

TEST(LoadRunTest, AServerThatGoesAwayEndsTheRun) {
  SetClock* clock = nullptr;
  Simulation simulation([&clock](uint64_t, const v1::GenerateRequest&) -> std::vector<Reaction> {
    if (clock->now < seconds(2)) return Answer(milliseconds(10), milliseconds(10), 5);
    return {{.after = milliseconds(1), .status = Unavailable()}};
  });
  clock = &simulation.clock;
  Schedule schedule = Base();
  schedule.users = 4;
  schedule.duration = std::chrono::hours(1);
  const RunResult run = simulation.Go(schedule);
  EXPECT_EQ(run.stopped, "the server is gone, nothing came for 3 s: UNAVAILABLE: no server");
  EXPECT_LT(run.end, seconds(6));
  const Measures measures = Measure(run, {});
  EXPECT_EQ(measures.completed, 4 * 40);
  // Each user asks again every 200 ms, not at once.
  EXPECT_NEAR(static_cast<double>(measures.failed), 4 * 15, 8);
}

TEST(LoadRunTest, AServerThatNeverAnswersIsGivenUpOn) {
  Simulation simulation(
      [](uint64_t, const v1::GenerateRequest&) { return std::vector<Reaction>(); });
  Schedule schedule = Base();
  schedule.users = 2;
  schedule.max_requests = 4;
  schedule.limit = seconds(7);
  const RunResult run = simulation.Go(schedule);
  ASSERT_EQ(run.records.size(), 4U);
  EXPECT_EQ(run.records[3].outcome, Outcome::kFailed);
  EXPECT_EQ(run.records[3].error, "DEADLINE_EXCEEDED: late");
  EXPECT_EQ(run.records[1].end, seconds(7));
}

TEST(LoadRunTest, WhatIsInFlightAtTheEndIsDrainedForSoLong) {
  Simulation simulation([](uint64_t stream, const v1::GenerateRequest&) {
    return Answer(seconds(stream == 0 ? 3 : 20), seconds(1), 1);
  });
  Schedule schedule = Base();
  schedule.users = 2;
  schedule.duration = seconds(1);
  schedule.drain = seconds(5);
  const RunResult run = simulation.Go(schedule);
  ASSERT_EQ(run.records.size(), 2U);
  EXPECT_EQ(run.records[0].outcome, Outcome::kCompleted);
  EXPECT_EQ(run.records[1].outcome, Outcome::kUnfinished);
  EXPECT_EQ(run.end, seconds(6));
  EXPECT_EQ(Measure(run, {}).unfinished, 1);
}

TEST(LoadRunTest, RejectionsAreNoFailures) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return std::vector<Reaction>{
        {.after = milliseconds(1),
         .status = absl::ResourceExhaustedError("RESOURCE_EXHAUSTED: the queue is full")}};
  });
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 3;
  const RunResult run = simulation.Go(schedule);
  const Measures measures = Measure(run, {.ttft = 100});
  EXPECT_EQ(measures.rejected, 3);
  EXPECT_EQ(measures.failed, 0);
  EXPECT_EQ(measures.good_share, 0);
}

TEST(LoadRunTest, AStreamWithoutALastMessageFailed) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return std::vector<Reaction>{{.after = milliseconds(1), .tokens = 1},
                                 {.after = milliseconds(2), .finished = false}};
  });
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 1;
  const RunResult run = simulation.Go(schedule);
  EXPECT_EQ(run.records[0].outcome, Outcome::kFailed);
  EXPECT_EQ(run.records[0].error, "the stream ended before its last message");
}

TEST(LoadRunTest, AnInterruptKeepsWhatWasMeasured) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return Answer(milliseconds(300), milliseconds(1), 1);
  });
  simulation.watch = [&](const load::Progress& progress) {
    if (progress.now >= seconds(1)) simulation.interrupted = true;
  };
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.duration = std::chrono::hours(1);
  const RunResult run = simulation.Go(schedule);
  EXPECT_TRUE(run.interrupted);
  EXPECT_EQ(run.stopped, "interrupted");
  EXPECT_EQ(run.end, seconds(1));
  const Measures measures = Measure(run, {});
  EXPECT_EQ(measures.completed, 3);
  EXPECT_EQ(measures.unfinished, 1);
}

TEST(LoadRunTest, ClocksThatStepAreNoticed) {
  Simulation simulation([](uint64_t, const v1::GenerateRequest&) {
    return Answer(milliseconds(100), milliseconds(10), 3);
  });
  bool stepped = false;
  simulation.transport.on_event = [&](uint64_t stream) {
    if (stream == 2 && !std::exchange(stepped, true)) {
      simulation.clock.now -= milliseconds(200);
      simulation.clock.wall_step = seconds(-3600);
    }
  };
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 6;
  const RunResult run = simulation.Go(schedule);
  EXPECT_GT(run.backward_steps, 0);
  EXPECT_EQ(run.wall_step, seconds(-3600));
  EXPECT_EQ(Measure(run, {}).completed, 6);
  for (const Record& record : run.records) {
    EXPECT_GE(record.sent, record.intended);
    EXPECT_GE(record.arrivals[0].at(), record.sent);
    EXPECT_GE(record.end, record.arrivals.back().at());
  }
}

TEST(LoadRunTest, ATalkGoesOnWithAllThatWasSaid) {
  load::WorkloadOptions options = FixedWorkload();
  options.turns = 3;
  Simulation talk(
      [](uint64_t, const v1::GenerateRequest&) {
        return Answer(milliseconds(10), milliseconds(1), 5);
      },
      options);
  Schedule schedule = Base();
  schedule.users = 1;
  schedule.think = milliseconds(500);
  schedule.max_requests = 4;
  const RunResult run = talk.Go(schedule);
  ASSERT_EQ(talk.transport.requests.size(), 4U);
  const auto ids = [&talk](size_t i) {
    const auto& list = talk.transport.requests[i].token_ids().ids();
    return std::vector<int32_t>(list.begin(), list.end());
  };
  EXPECT_EQ(talk.transport.sessions, std::vector<std::string>(4));
  EXPECT_EQ(ids(0).size(), 10U);
  ASSERT_EQ(ids(1).size(), 25U);
  ASSERT_EQ(ids(2).size(), 40U);
  EXPECT_EQ(ids(3).size(), 10U);  // another talk
  const std::vector<int32_t> first = ids(0), second = ids(1), third = ids(2);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), second.begin()));
  EXPECT_EQ(std::vector<int32_t>(second.begin() + 10, second.begin() + 15),
            std::vector<int32_t>(5, 7));  // the answer
  EXPECT_TRUE(std::equal(second.begin(), second.end(), third.begin()));
  EXPECT_EQ(run.records[1].intended, milliseconds(514));  // the pause after 14 ms
  EXPECT_EQ(run.records[2].turn, 2);
  EXPECT_EQ(run.records[3].talk, 1);
}

TEST(LoadRunTest, ATraceIsReplayedAtItsTimes) {
  load::Trace trace;
  trace.rows = {{.at = Time(0), .input_tokens = 3, .output_tokens = 1},
                {.at = seconds(4), .input_tokens = 30, .output_tokens = 2},
                {.at = seconds(5), .input_tokens = 300, .output_tokens = 3}};
  load::WorkloadOptions options = FixedWorkload();
  options.trace = &trace;
  Simulation simulation(
      [](uint64_t, const v1::GenerateRequest& request) {
        return Answer(milliseconds(10), milliseconds(1), request.max_tokens());
      },
      options);
  Schedule schedule = Base();
  schedule.trace = &trace;
  schedule.trace_speed = 2;
  const RunResult run = simulation.Go(schedule);
  ASSERT_EQ(run.records.size(), 3U);
  EXPECT_EQ(run.records[1].intended, seconds(2));
  EXPECT_EQ(run.records[2].intended, milliseconds(2500));
  EXPECT_EQ(run.records[1].input_tokens, 30);
  EXPECT_EQ(run.records[2].output_tokens, 3);
}

}  // namespace
}  // namespace strata::testing::load_run_test
