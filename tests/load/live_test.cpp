// Streams over real sockets to a mock server in this process, whose own times are known.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/load/grpc_transport.h"
#include "tests/load/mock_server.h"
#include "tests/load/run.h"
#include "tests/load/statistics.h"
#include "tests/load/workload.h"

namespace strata::testing::load_live_test {
namespace {

using load::Outcome;
using load::RunResult;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::atomic<bool> kNever = false;

load::WorkloadOptions Tokens(int32_t input, int32_t output) {
  return {.input = load::Lengths::Constant(input),
          .output = load::Lengths::Constant(output),
          .vocab_size = 1000,
          .max_positions = 4096};
}

RunResult Load(const std::string& address, const load::Schedule& schedule,
               const load::WorkloadOptions& options, const std::atomic<bool>& interrupted = kNever,
               int32_t connections = 2) {
  load::SteadyClock clock;
  load::Workload workload(options);
  load::GrpcTransport transport(address, connections, &clock);
  load::Run run(schedule, &workload, &transport, &clock);
  return run.Go(interrupted);
}

load::Schedule Base() { return {.drain = seconds(5), .limit = seconds(60)}; }

double Median(std::vector<double> values) {
  return load::Summarize(std::move(values)).percentiles[0].second;
}

TEST(LoadLiveTest, ASessionGoesAlongAsMetadata) {
  MockServer server({});
  load::Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 4;
  load::WorkloadOptions options = Tokens(8, 2);
  options.turns = 2;
  Load(server.address(), schedule, options);
  options.sessions = true;
  Load(server.address(), schedule, options);
  std::vector<std::string> sessions;
  for (const MockServer::Sent& sent : server.sent()) sessions.push_back(sent.session);
  EXPECT_EQ(sessions, (std::vector<std::string>{"", "", "", "", "0-talk-0", "0-talk-0", "0-talk-1",
                                                "0-talk-1"}));
}

// Compares the client's measurements with the server's times: the difference is network, gRPC and
// the client itself, all on this machine.
TEST(LoadLiveTest, WhatIsMeasuredIsWhatTheServerDid) {
  MockServer server({.first = milliseconds(30), .gap = milliseconds(5)});
  load::Schedule schedule = Base();
  schedule.users = 1;  // so that the server's order is the client's
  schedule.max_requests = 20;
  const RunResult run = Load(server.address(), schedule, Tokens(8, 20));
  const std::vector<MockServer::Sent> sent = server.sent();
  ASSERT_EQ(run.records.size(), 20U);
  ASSERT_EQ(sent.size(), 20U);
  std::vector<double> first, gaps;
  for (size_t i = 0; i < sent.size(); ++i) {
    const load::Record& record = run.records[i];
    EXPECT_EQ(record.outcome, Outcome::kCompleted);
    EXPECT_EQ(record.input_tokens, 8);
    ASSERT_EQ(record.arrivals.size(), sent[i].messages.size());
    const auto ms = [](auto time) {
      return std::chrono::duration<double, std::milli>(time).count();
    };
    const double served = ms(sent[i].messages[0] - sent[i].received);
    first.push_back(load::FirstTokenMs(record) - served);
    EXPECT_GT(first.back(), 0) << i;  // never before it was sent
    for (size_t j = 1; j < record.arrivals.size(); ++j) {
      gaps.push_back(std::abs(ms(record.arrivals[j].at() - record.arrivals[j - 1].at()) -
                              ms(sent[i].messages[j] - sent[i].messages[j - 1])));
    }
  }
  std::printf("over the server's own times: first token +%.3f ms, gaps off by %.3f ms (medians)\n",
              Median(first), Median(gaps));
  EXPECT_LT(Median(first), 5);
  EXPECT_LT(Median(gaps), 2);
}

TEST(LoadLiveTest, ManyStreamsOfMixedMessagesAndCancels) {
  MockServer server({.first = milliseconds(5), .gap = milliseconds(2), .tokens_a_message = 3});
  load::Schedule schedule = Base();
  schedule.users = 40;
  schedule.max_requests = 400;
  load::WorkloadOptions options = Tokens(5, 30);
  options.cancel_share = 0.3;
  const RunResult run = Load(server.address(), schedule, options);
  int64_t cancelled = 0;
  for (const load::Record& record : run.records) {
    cancelled += record.outcome == Outcome::kCancelled;
    if (record.outcome == Outcome::kCancelled) continue;
    ASSERT_EQ(record.outcome, Outcome::kCompleted) << record.error;
    EXPECT_EQ(record.output_tokens, 30);
    EXPECT_EQ(record.arrivals.size(), 10U);
  }
  EXPECT_NEAR(static_cast<double>(cancelled), 120, 50);  // 9 is a deviation; late cancels finish
  EXPECT_EQ(load::Measure(run, {}).max_concurrent_requests, 40);
  EXPECT_GT(run.busy_share, 0);
}

// An open loop sends at its moments, even on a busy machine.
TEST(LoadLiveTest, TheScheduleIsKept) {
  MockServer server({.first = milliseconds(1), .gap = milliseconds(1)});
  load::Schedule schedule = Base();
  schedule.arrivals = load::Arrivals::Options{.rate = 200, .end_rate = {}};
  schedule.duration = seconds(2);
  const RunResult run = Load(server.address(), schedule, Tokens(5, 2));
  std::vector<double> lag;
  for (const load::Record& record : run.records) {
    EXPECT_GE(record.sent, record.intended);
    lag.push_back(load::Seconds(record.sent - record.intended) * 1e3);
  }
  EXPECT_NEAR(static_cast<double>(lag.size()), 400, 100);
  std::printf("sent %.3f ms late (median)\n", Median(lag));
  EXPECT_LT(Median(lag), 2);
}

TEST(LoadLiveTest, AServerThatDiesEndsTheRunAndKeepsWhatWasMeasured) {
  MockServer server({.first = milliseconds(2), .gap = milliseconds(2)});
  std::jthread end([&server] {
    std::this_thread::sleep_for(milliseconds(500));
    server.Stop();
  });
  load::Schedule schedule = Base();
  schedule.users = 4;
  schedule.duration = seconds(60);
  const RunResult run = Load(server.address(), schedule, Tokens(5, 10));
  EXPECT_THAT(run.stopped, ::testing::HasSubstr("the server is gone"));
  EXPECT_LT(run.end, seconds(15));
  const load::Measures measures = load::Measure(run, {});
  EXPECT_GT(measures.completed, 10);
  EXPECT_GT(measures.failed, 0);
}

TEST(LoadLiveTest, AnInterruptEndsStreamsThatNeverAnswer) {
  MockServer server({.answers = false});
  std::atomic<bool> interrupted = false;
  std::jthread end([&interrupted] {
    std::this_thread::sleep_for(milliseconds(300));
    interrupted = true;
  });
  load::Schedule schedule = Base();
  schedule.users = 5;
  schedule.duration = seconds(60);
  schedule.drain = seconds(60);  // an interrupt does not wait for it
  const RunResult run = Load(server.address(), schedule, Tokens(5, 10), interrupted);
  EXPECT_LT(run.end, seconds(30));
  ASSERT_EQ(run.records.size(), 5U);
  for (const load::Record& record : run.records) {
    EXPECT_EQ(record.outcome, Outcome::kUnfinished);
  }
}

TEST(LoadLiveTest, ARequestHasItsTimeLimit) {
  MockServer server({.answers = false});
  load::Schedule schedule = Base();
  schedule.users = 1;
  schedule.max_requests = 1;
  schedule.limit = milliseconds(300);
  const RunResult run = Load(server.address(), schedule, Tokens(5, 10));
  ASSERT_EQ(run.records.size(), 1U);
  EXPECT_EQ(run.records[0].outcome, Outcome::kFailed);
  EXPECT_THAT(run.records[0].error, ::testing::StartsWith("DEADLINE_EXCEEDED"));
}

TEST(LoadLiveTest, AskingWhatIsServed) {
  MockServer server({});
  const auto model = load::AskModel(server.address());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name(), "mock");

  const auto nobody = load::AskModel("127.0.0.1:1");
  EXPECT_EQ(nobody.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(nobody.status().message()), ::testing::StartsWith("127.0.0.1:1: "));

  // A gRPC server with another service.
  grpc::health::v1::Health::Service health;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&health);
  const auto other = builder.BuildAndStart();
  const std::string address = "127.0.0.1:" + std::to_string(port);
  const auto wrong = load::AskModel(address);
  EXPECT_EQ(std::string(wrong.status().message()),
            address + ": speaks gRPC, but not strata.v1.Inference");
}

// A socket that accepts connections and never answers.
TEST(LoadLiveTest, AServerThatSaysNothing) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(name);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&name), size), 0);
  ASSERT_EQ(listen(listener, 8), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&name), &size), 0);
  const std::string address = "127.0.0.1:" + std::to_string(ntohs(name.sin_port));
  const auto model = load::AskModel(address);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(model.status().message()), ::testing::HasSubstr("no answer in 3 s"));
  close(listener);
}

}  // namespace
}  // namespace strata::testing::load_live_test
