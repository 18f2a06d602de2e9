#include "server/telemetry/access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "tests/server/captured_log.h"
#include "tests/support/engine_runner.h"

namespace strata::testing::access_log_test {
namespace {

using server::AccessLine;
using server::AccessLog;
using ::testing::HasSubstr;

AccessLine Line(const std::string& id) {
  AccessLine line;
  line.front = "http";
  line.request_id = id;
  line.key = "alice";
  line.reason = engine::FinishReason::kLength;
  line.metrics.prompt_tokens = 3;
  line.metrics.generated_tokens = 9;
  line.total_seconds = 0.5;
  return line;
}

TEST(AccessLogTest, WritesALineForEachRequestAndAppends) {
  const ScratchDir dir;
  const std::string path = dir.path() / "access.log";
  server::Metrics metrics;
  for (int run = 0; run < 2; ++run) {
    auto log = AccessLog::Open(path, &metrics);
    ASSERT_TRUE(log.ok()) << log.status();
    for (int i = 0; i < 100; ++i) (*log)->Append(Line("r" + std::to_string(i) + "\n\"x\xFF"));
  }
  std::ifstream file(path);
  int lines = 0;
  for (std::string text; std::getline(file, text); ++lines) {
    const auto json = nlohmann::json::parse(text);
    EXPECT_EQ(json["request_id"].get<std::string>().rfind("r" + std::to_string(lines % 100), 0),
              0U);
    EXPECT_EQ(json["key"], "alice");
    EXPECT_EQ(json["reason"], "length");
    EXPECT_EQ(json["status"], "OK");
    EXPECT_EQ(json["generated_tokens"], 9);
    EXPECT_EQ(json["total_seconds"], 0.5);
  }
  EXPECT_EQ(lines, 200);
  EXPECT_NE(metrics.Render().find("strata_access_log_dropped_lines_total 0\n"), std::string::npos);
}

TEST(AccessLogTest, EachValueHasItsOwnField) {
  const server::AccessLine line = {.front = "grpc",
                                   .request_id = "id \"1\"",
                                   .key = "alice",
                                   .status = absl::DeadlineExceededError("too \n late"),
                                   .reason = engine::FinishReason::kError,
                                   .total_seconds = 1.5,
                                   .metrics = {.queue_seconds = 0.25,
                                               .prefill_seconds = 9,
                                               .decode_seconds = 9,
                                               .time_to_first_token_seconds = 0.5,
                                               .mean_inter_token_seconds = 9,
                                               .max_inter_token_seconds = 9,
                                               .prompt_tokens = 2,
                                               .cached_tokens = 3,
                                               .generated_tokens = 4,
                                               .preemptions = 5}};
  const std::chrono::system_clock::time_point time{std::chrono::milliseconds(1769860800123)};
  EXPECT_EQ(server::AccessLineJson(line, time),
            R"({"time":"2026-01-31T12:00:00.123Z","front":"grpc","request_id":"id \"1\"",)"
            R"("key":"alice","status":"DEADLINE_EXCEEDED","reason":"error",)"
            R"("message":"too \n late","prompt_tokens":2,"cached_tokens":3,"generated_tokens":4,)"
            R"("preemptions":5,"queue_seconds":0.25,"time_to_first_token_seconds":0.5,)"
            R"("total_seconds":1.5})");
}

TEST(AccessLogTest, AFullDiskDropsLinesAndCountsThem) {
  server::Metrics metrics;
  auto log = AccessLog::Open("/dev/full", &metrics);
  ASSERT_TRUE(log.ok()) << log.status();
  (*log)->Append(Line("a"));
  while (metrics.Render().find("strata_access_log_dropped_lines_total 1\n") == std::string::npos) {
    std::this_thread::yield();
  }
}

TEST(AccessLogTest, GoesOnWhenSomebodyReadsThePipeAgain) {
  const CapturedLog own_log;
  const ScratchDir dir;
  const std::string path = dir.path() / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const int reader = open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ASSERT_GE(reader, 0);
  std::vector<char> bytes(size_t{1} << 20);
  const ssize_t room = write(reader, bytes.data(), bytes.size());  // as much as it holds
  ASSERT_GT(room, 0);
  server::Metrics metrics;
  {
    auto log = AccessLog::Open(path, &metrics);
    ASSERT_TRUE(log.ok()) << log.status();
    for (int i = 0; i < 2; ++i) (*log)->Append(Line("lost"));
    while (metrics.Render().find("strata_access_log_dropped_lines_total 2\n") ==
           std::string::npos) {
      std::this_thread::yield();
    }
    ASSERT_EQ(read(reader, bytes.data(), bytes.size()), room);
    (*log)->Append(Line("kept"));
  }
  const std::string kept(bytes.data(), static_cast<size_t>(std::max<ssize_t>(
                                           read(reader, bytes.data(), bytes.size()), 0)));
  close(reader);
  EXPECT_EQ(nlohmann::json::parse(kept)["request_id"], "kept");
  EXPECT_THAT(own_log.text(), HasSubstr("access log: Connection timed out; lines are dropped"));
  EXPECT_EQ(own_log.text().find("dropped"), own_log.text().rfind("dropped"));  // said once
  EXPECT_THAT(own_log.text(), HasSubstr("access log: lines are written again"));
}

TEST(AccessLogTest, RefusesWhatItCannotOpen) {
  server::Metrics metrics;
  const auto log = AccessLog::Open("/no/such/dir/log", &metrics);
  EXPECT_EQ(log.status().message(), "access log /no/such/dir/log: No such file or directory");
}

}  // namespace
}  // namespace strata::testing::access_log_test
