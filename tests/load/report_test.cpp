#include "tests/load/report.h"

#include <cmath>
#include <fstream>

#include "tests/load/compare.h"
#include "tests/load/live_view.h"
#include "tests/load/options.h"
#include "tests/load/page.h"
#include "tests/load/scrape.h"

namespace strata::testing::load_report_test {
namespace {

using load::Measure;
using load::Outcome;
using load::Record;
using load::ReportHeader;
using load::RunResult;
using nlohmann::ordered_json;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

RunResult OneRun(int first_token_ms) {
  RunResult run;
  Record record;
  record.end = milliseconds(first_token_ms + 100);
  record.arrivals = {{milliseconds(first_token_ms), 1}, {milliseconds(first_token_ms + 100), 1}};
  record.output_tokens = 2;
  record.input_tokens = 30;
  record.outcome = Outcome::kCompleted;
  record.text = "</script> & \"so\"";
  record.server = load::ServerSplit{.queue_seconds = 0.25, .preemptions = 2, .cache_bytes = 512};
  run.records.push_back(record);
  record = {};
  record.sent = milliseconds(10);
  record.end = milliseconds(20);
  record.outcome = Outcome::kFailed;
  record.error = "INTERNAL: \"what\", it said";
  run.records.push_back(record);
  run.end = seconds(1);
  return run;
}

ordered_json Made(const std::vector<RunResult>& runs, const std::string& label) {
  const ReportHeader header{
      .date = "20260131-120000",
      .label = label,
      .server = {{"address", "here:1"}, {"model", "tiny"}},
      .traffic = {{"request_rate", "inf"}, {"burstiness", 1.0}, {"max_concurrency", 4}},
      .num_prompts = 2};
  return load::MakeReport(header, runs, {.ttft = 200});
}

// The keys that `vllm bench serve --save-result --save-detailed --metric-percentiles
// 50,90,95,99,99.9` writes for text generation (vllm/benchmarks/serve.py, 2026).
TEST(LoadReportTest, HasTheKeysOfVllmBenchServe) {
  ordered_json report = Made({OneRun(100)}, "a");
  load::AddDetails(OneRun(100), &report);
  for (const char* key : {"date",
                          "endpoint_type",
                          "backend",
                          "label",
                          "model_id",
                          "tokenizer_id",
                          "num_prompts",
                          "request_rate",
                          "burstiness",
                          "max_concurrency",
                          "duration",
                          "completed",
                          "failed",
                          "total_input_tokens",
                          "total_output_tokens",
                          "request_throughput",
                          "request_goodput",
                          "output_throughput",
                          "total_token_throughput",
                          "input_lens",
                          "output_lens",
                          "ttfts",
                          "itls",
                          "latencies",
                          "start_times",
                          "queue_times",
                          "generated_texts",
                          "errors",
                          "max_output_tokens_per_s",
                          "max_concurrent_requests",
                          "rtfx"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  for (const char* metric : {"ttft", "tpot", "itl", "e2el", "client_queue_time"}) {
    for (const char* statistic : {"mean", "median", "std", "p50", "p90", "p95", "p99", "p99.9"}) {
      EXPECT_TRUE(report.contains(std::string(statistic) + "_" + metric + "_ms")) << metric;
    }
  }
  EXPECT_EQ(report["completed"], 1);
  EXPECT_EQ(report["failed"], 1);
  EXPECT_EQ(report["p99.9_ttft_ms"], 100);
  EXPECT_EQ(report["mean_server_queue_ms"], 250);
  EXPECT_EQ(report["ttfts"], ordered_json({0.1, 0}));
  EXPECT_EQ(report["itls"][0], ordered_json({0.1}));
  EXPECT_EQ(report["queue_times"], ordered_json({0.0, 0.01}));
  EXPECT_EQ(report["errors"][1], "INTERNAL: \"what\", it said");
  EXPECT_EQ(report["errors_by_message"][0]["count"], 1);
}

TEST(LoadReportTest, RepeatsHaveMeansAndSpread) {
  const ordered_json report = Made({OneRun(100), OneRun(140)}, "a");
  EXPECT_EQ(report["mean_ttft_ms"], 120);
  EXPECT_EQ(report["spread"]["mean_ttft_ms"]["min"], 100);
  EXPECT_EQ(report["spread"]["mean_ttft_ms"]["max"], 140);
  EXPECT_EQ(report["spread"]["mean_ttft_ms"]["std"], 20);
  EXPECT_EQ(report["repeats"].size(), 2U);
  EXPECT_EQ(report["repeats"][1]["mean_ttft_ms"], 140);
  EXPECT_THAT(load::ReportText(report), HasSubstr("mean of 2 runs"));
}

TEST(LoadReportTest, TextAndCsvSayWhatHappened) {
  const std::string text = load::ReportText(Made({OneRun(100)}, "mine"));
  EXPECT_THAT(text, HasSubstr("mine: here:1, 1.0 s measured"));
  EXPECT_THAT(text, HasSubstr("1 completed, 1 failed (0 of them rejected)"));
  EXPECT_THAT(text, HasSubstr("time to first token         100.00    100.00"));
  EXPECT_THAT(text, HasSubstr("error, 1 times: INTERNAL"));
  EXPECT_THAT(text, HasSubstr("goodput: 1.00 requests/s, 50.0 %"));
  const std::string csv = load::Csv({OneRun(100)});
  EXPECT_THAT(csv, HasSubstr("\n0,0,0,completed,0.000000000,0.000000000,0.100000000,0.200000000,30,"
                             "2,2,100.000000,100.000000,200.000000,0.250000,"));
  EXPECT_THAT(csv, HasSubstr(",\"INTERNAL: \"\"what\"\", it said\"\n"));
}

TEST(LoadReportTest, WarnsOfWhatSpoilsAResult) {
  RunResult run = OneRun(100);
  EXPECT_THAT(load::Warnings(run, Measure(run, {})), ElementsAre());
  run.busy_share = 0.95;
  run.records[0].sent = milliseconds(60);
  run.wall_step = seconds(-3);
  run.backward_steps = 2;
  run.unsent = 7;
  run.cut = 1;
  run.scrapes_failed = 4;
  EXPECT_THAT(load::Warnings(run, Measure(run, {})),
              ElementsAre(HasSubstr("the client is the bottleneck: its thread was busy for 95 %"),
                          HasSubstr("up to 60 ms late"), HasSubstr("set by -3.000 s"),
                          HasSubstr("went back 2 times"), HasSubstr("7 requests were due"),
                          HasSubstr("1 requests were made shorter"),
                          HasSubstr("4 scrapes of the server failed")));
  run.records.clear();
  EXPECT_THAT(load::Warnings(run, Measure(run, {})).back(), HasSubstr("nothing that was measured"));
}

TEST(LoadReportTest, ComparesWithRatiosAndSpreads) {
  const std::vector<ordered_json> reports = {Made({OneRun(100)}, "a"),
                                             Made({OneRun(200), OneRun(300)}, "b")};
  const ordered_json compared = load::CompareJson(reports);
  EXPECT_EQ(compared["ratios"]["mean_ttft_ms"], ordered_json({1.0, 2.5}));
  EXPECT_TRUE(compared["ratios"]["cancelled"][1].is_null());  // a ratio to 0
  const std::string text = load::CompareText(reports);
  EXPECT_THAT(text, HasSubstr("250 +- 50 (2.50x)"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("running, at most")));  // no scrapes
}

TEST(LoadReportTest, WhatIsComparedIsReadOrRefused) {
  const load::Compared server = load::ParseCompared("new=host:1,host:2");
  EXPECT_EQ(server.label, "new");
  EXPECT_EQ(server.address, "host:1");
  EXPECT_EQ(server.metrics, "host:2");
  EXPECT_TRUE(server.file.empty());
  EXPECT_EQ(load::ParseCompared("host:1").label, "host:1");
  EXPECT_EQ(load::ParseCompared("old=a/b.json").file, "a/b.json");
  const std::string path = ::testing::TempDir() + "/load_report_test.json";
  const auto written = [&path](const std::string& content) {
    std::ofstream(path) << content;
    return load::ReadReport(path, "old");
  };
  EXPECT_EQ(std::string(written("{\"completed\": 3").status().message()),
            path + ": not a result of strata-loadtest");
  EXPECT_FALSE(written("{\"completed\": 3}").ok());
  EXPECT_FALSE(written("[]").ok());
  const auto report = written(Made({OneRun(1)}, "a").dump());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ((*report)["label"], "old");
  EXPECT_FALSE(load::ReadReport("/nonexistent.json", "x").ok());
}

TEST(LoadReportTest, ThePageHoldsItsDataAndNoMore) {
  ordered_json report = Made({OneRun(100)}, "</script><b>");
  load::AddDetails(OneRun(100), &report);
  const std::string page = load::MakePage({report, report});
  EXPECT_EQ(page.find("</script><b>"), page.npos);
  EXPECT_EQ(page.find("{{DATA}}"), page.npos);
  EXPECT_EQ(page.find("http://"), page.find("http://www.w3.org/2000/svg"));  // a name, not a link
  EXPECT_EQ(page.find("https://"), page.npos);
  const std::string open = "id=\"data\">";
  const size_t from = page.find(open) + open.size();
  const auto data = ordered_json::parse(page.substr(from, page.find("</script>", from) - from));
  ASSERT_EQ(data.size(), 2U);
  EXPECT_EQ(data[0]["label"], "</script><b>");
  EXPECT_FALSE(data[0].contains("ttfts"));
  EXPECT_EQ(data[0]["series"], report["series"]);
}

TEST(LoadReportTest, MetricsAreRead) {
  const std::string text =
      "# HELP vllm:num_requests_running Sequences\n# TYPE x gauge\n"
      "vllm:num_requests_waiting 7\nvllm:num_requests_running 3\n"
      "strata_cache_blocks{state=\"used\"} 5\nvllm:kv_cache_usage_perc 0.25\n";
  EXPECT_EQ(std::string(load::ParseMetrics(text).status().message()),
            "no strata_preemptions_total");
  const auto scrape = load::ParseMetrics(text + "strata_preemptions_total 11\n");
  ASSERT_TRUE(scrape.ok()) << scrape.status();
  EXPECT_EQ(scrape->running, 3);
  EXPECT_EQ(scrape->waiting, 7);
  EXPECT_EQ(scrape->cache_usage, 0.25);
  EXPECT_EQ(scrape->preemptions, 11);
  load::SteadyClock clock;
  EXPECT_THAT(
      std::string(load::Scraper::Start("127.0.0.1:1", {}, seconds(1), &clock).status().message()),
      HasSubstr("http://127.0.0.1:1/metrics: "));
}

TEST(LoadReportTest, TheLiveViewShowsRatesOfTheLastSeconds) {
  load::LiveView view({.label = "", .requests = 10});
  const RunResult run = OneRun(100);
  view.Text({.now = seconds(1), .in_flight = 3, .records = &run.records, .ended = {0, 1}}, {});
  const load::Scrape scrape{.running = 2, .waiting = 9, .cache_usage = 0.5, .preemptions = 1};
  const std::string text = view.Text(
      {.now = seconds(3), .in_flight = 3, .records = &run.records, .ended = {0, 0}, .tokens = 500},
      scrape);
  EXPECT_THAT(text, HasSubstr("[#########...............]  40 %  3 s\n"));
  EXPECT_THAT(text, HasSubstr("in flight 3, ended 4, failed 1, cancelled 0; 1.0 requests/s, 250 "));
  EXPECT_THAT(text, HasSubstr("first token p50 100.0 p95 100.0 p99 100.0 ms"));
  EXPECT_THAT(text, HasSubstr("server: running 2, waiting 9, cache 50 %, preemptions 1"));
}

load::Answer Refused(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "strata-loadtest");
  const auto parsed = load::ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
  const auto* answer = std::get_if<load::Answer>(&parsed);
  return answer != nullptr ? *answer : load::Answer{.exit_code = -1, .text = "accepted"};
}

TEST(LoadOptionsTest, AreReadTogether) {
  const std::vector<const char*> arguments = {
      "strata-loadtest", "--server",    "h:1",          "--rate",       "inf",
      "--requests",      "5",           "--goodput",    "ttft:200",     "tpot:50",
      "--input-tokens",  "uniform:1:9", "--duration",   "1m30s",        "--mix",
      "1:priority=1",    "--mix",       "2:priority=2", "--burstiness", "inf"};
  const auto parsed = load::ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
  ASSERT_TRUE(std::holds_alternative<load::Options>(parsed)) << std::get<load::Answer>(parsed).text;
  const auto& options = std::get<load::Options>(parsed);
  EXPECT_EQ(options.server, "h:1");
  EXPECT_TRUE(std::isinf(options.rate));
  EXPECT_EQ(options.slo.tpot, 50);
  EXPECT_EQ(*options.duration, seconds(90));
  EXPECT_EQ(options.mix.size(), 2U);
}

TEST(LoadOptionsTest, WhatIsWrongIsNamed) {
  const struct {
    std::vector<const char*> arguments;
    const char* flag;
  } kCases[] = {{{}, "--users"},
                {{"--users", "0", "--requests", "1"}, "--users"},
                {{"--users", "4"}, "--requests"},
                {{"--users", "4", "--rate", "2", "--requests", "1"}, "--users"},
                {{"--rate", "inf", "--duration", "5s"}, "--requests"},
                {{"--rate", "-1", "--duration", "5s"}, "--rate"},
                {{"--rate", "x", "--duration", "5s"}, "--rate"},
                {{"--users", "4", "--duration", "5"}, "--duration"},
                {{"--users", "4", "--duration", "5s", "--warm-up", "5s"}, "--warm-up"},
                {{"--users", "4", "--duration", "5s", "--goodput", "itl:3"}, "--goodput"},
                {{"--users", "4", "--duration", "5s", "--input-tokens", "0"}, "--input-tokens"},
                {{"--users", "4", "--duration", "5s", "--mix", "priority=3"}, "--mix"},
                {{"--users", "4", "--duration", "5s", "--cancel-share", "2"}, "--cancel-share"},
                {{"--users", "4", "--duration", "5s", "--prefix-groups", "2"}, "--prefix-tokens"},
                {{"--users", "4", "--duration", "5s", "--sweep"}, "--sweep"},
                {{"--rate", "4", "--duration", "5s", "--ramp-end-rate", "9"}, "--ramp-end-rate"},
                {{"--users", "4", "--duration", "5s", "--nothing"}, "--nothing"}};
  for (const auto& item : kCases) {
    const load::Answer answer = Refused(item.arguments);
    EXPECT_EQ(answer.exit_code, 2) << item.flag << ": " << answer.text;
    EXPECT_THAT(answer.text, HasSubstr(item.flag));
    EXPECT_EQ(answer.text.find('\n'), answer.text.npos) << answer.text;
  }
  EXPECT_EQ(Refused({"--help"}).exit_code, 0);
}

}  // namespace
}  // namespace strata::testing::load_report_test
