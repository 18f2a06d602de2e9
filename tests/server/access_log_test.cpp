#include "server/access_log.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/engine_runner.h"

namespace strata::testing {
namespace {

using server::AccessLine;
using server::AccessLog;

AccessLine Line(const std::string& id) {
  AccessLine line;
  line.front = "http";
  line.request_id = id;
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
    EXPECT_EQ(json["reason"], "length");
    EXPECT_EQ(json["status"], "OK");
    EXPECT_EQ(json["generated_tokens"], 9);
    EXPECT_EQ(json["total_seconds"], 0.5);
  }
  EXPECT_EQ(lines, 200);
  EXPECT_NE(metrics.Render().find("strata_access_log_dropped_lines_total 0\n"), std::string::npos);
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

TEST(AccessLogTest, RefusesWhatItCannotOpen) {
  server::Metrics metrics;
  const auto log = AccessLog::Open("/no/such/dir/log", &metrics);
  EXPECT_EQ(log.status().message(), "access log /no/such/dir/log: No such file or directory");
}

}  // namespace
}  // namespace strata::testing
