#include "tests/load/statistics.h"

#include "tests/load/series.h"

namespace strata::testing::load_statistics_test {
namespace {

using load::Arrival;
using load::Measure;
using load::Outcome;
using load::Record;
using load::RunResult;
using load::Time;
using std::chrono::milliseconds;
using std::chrono::seconds;

// A completed request of one-token messages at these milliseconds.
Record Made(int intended, int sent, const std::vector<int>& arrivals, int end) {
  Record record;
  record.intended = milliseconds(intended);
  record.sent = milliseconds(sent);
  record.end = milliseconds(end);
  record.outcome = Outcome::kCompleted;
  record.input_tokens = 100;
  for (const int at : arrivals) record.arrivals.emplace_back(milliseconds(at), 1);
  record.output_tokens = static_cast<int32_t>(arrivals.size());
  return record;
}

TEST(LoadStatisticsTest, AnArrivalHoldsTimeAndTokensExactly) {
  for (const int64_t at : {int64_t{0}, int64_t{1}, int64_t{123'456'789'012'345}}) {
    for (const int32_t tokens : {1, 2, 65535}) {
      const Arrival arrival(Time(at), tokens);
      EXPECT_EQ(arrival.at(), Time(at));
      EXPECT_EQ(arrival.tokens(), tokens);
    }
  }
  EXPECT_EQ(sizeof(Arrival), 8U);
}

// Values of numpy's np.percentile, np.mean and np.std.
TEST(LoadStatisticsTest, SummariesAreNumpys) {
  const load::Summary four = load::Summarize({4, 1, 3, 2});
  EXPECT_EQ(four.count, 4);
  EXPECT_DOUBLE_EQ(four.mean, 2.5);
  EXPECT_DOUBLE_EQ(four.deviation, 1.118033988749895);
  EXPECT_DOUBLE_EQ(four.max, 4);
  const std::vector<std::pair<double, double>> wanted = {
      {50, 2.5}, {90, 3.7}, {95, 3.85}, {99, 3.97}, {99.9, 3.997}};
  ASSERT_EQ(four.percentiles.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(four.percentiles[i].first, wanted[i].first);
    EXPECT_DOUBLE_EQ(four.percentiles[i].second, wanted[i].second);
  }
  std::vector<double> thousand;
  for (int i = 1001; i-- > 0;) thousand.push_back(i * i);
  const load::Summary squares = load::Summarize(thousand);
  EXPECT_DOUBLE_EQ(squares.mean, 333500);
  EXPECT_DOUBLE_EQ(squares.percentiles[0].second, 250000);
  EXPECT_DOUBLE_EQ(squares.percentiles[3].second, 980100);
  EXPECT_DOUBLE_EQ(squares.percentiles[4].second, 998001);
  EXPECT_EQ(load::Summarize({}).count, 0);
  EXPECT_EQ(load::Summarize({7}).percentiles[4].second, 7);
}

TEST(LoadStatisticsTest, GoodputCountsWhatKeepsEveryLimit) {
  RunResult run;
  run.records = {Made(0, 0, {100, 110, 120}, 120),   // 100 ms, 10 ms a token
                 Made(0, 50, {250, 260, 270}, 270),  // 250 ms
                 Made(0, 0, {100, 200, 300}, 300),   // 100 ms a token
                 Made(0, 0, {150}, 160)};            // one token: no time between
  run.records.push_back(Made(0, 0, {}, 5));
  run.records.back().outcome = Outcome::kFailed;
  run.end = seconds(2);
  load::Measures measures = Measure(run, {.ttft = 200, .tpot = 50});
  EXPECT_DOUBLE_EQ(*measures.request_goodput, 1);  // two in two seconds
  EXPECT_DOUBLE_EQ(*measures.good_share, 2.0 / 5);
  measures = Measure(run, {.ttft = 250, .tpot = {}, .e2el = 299});
  EXPECT_DOUBLE_EQ(*measures.good_share, 3.0 / 5);
  EXPECT_FALSE(Measure(run, {}).request_goodput);
}

TEST(LoadStatisticsTest, RatesAreOfWhatCameInTheWindow) {
  RunResult run;
  run.records = {Made(0, 0, {500, 1500}, 1600), Made(1100, 1100, {1200, 2500}, 2600),
                 Made(1200, 1200, {1300, 1400}, 1400)};
  run.begin = seconds(1);
  run.end = seconds(2);
  const load::Measures measures = Measure(run, {});
  EXPECT_EQ(measures.requests, 2);                   // meant to be sent within it
  EXPECT_DOUBLE_EQ(measures.output_throughput, 4);   // tokens at 1200, 1300, 1400, 1500
  EXPECT_DOUBLE_EQ(measures.request_throughput, 2);  // ended at 1400 and 1600
  EXPECT_DOUBLE_EQ(measures.input_throughput, 200);  // two first tokens
  EXPECT_DOUBLE_EQ(measures.max_output_tokens_per_s, 4);
  EXPECT_EQ(measures.max_concurrent_requests, 3);
}

TEST(LoadStatisticsTest, WhoLeavesMakesRoomForWhoComes) {
  RunResult run;
  run.records = {Made(0, 0, {50}, 100), Made(100, 100, {150}, 200), Made(150, 150, {160}, 300)};
  run.end = seconds(1);
  EXPECT_EQ(Measure(run, {}).max_concurrent_requests, 2);
}

TEST(LoadStatisticsTest, ConcurrencyBeforeTheFirstPreemption) {
  RunResult run;
  run.end = seconds(1);
  const auto scrape = [&run](double running, double preemptions) {
    run.scrapes.push_back(
        {.running = running, .waiting = 2, .cache_usage = 0.5, .preemptions = preemptions});
  };
  for (const double running : {1, 5, 9}) scrape(running, 3);  // three in an earlier run
  scrape(14, 5);
  scrape(12, 9);
  const auto gauges = *Measure(run, {}).gauges;
  EXPECT_EQ(gauges.reached_before_preemption, 9);
  EXPECT_EQ(gauges.max_running, 14);
  EXPECT_EQ(gauges.preemptions, 6);
  EXPECT_EQ(gauges.held_when_full, 0);
  for (load::Scrape& full : run.scrapes) full.cache_usage = 0.96;
  run.scrapes[0].waiting = 0;
  EXPECT_EQ(Measure(run, {}).gauges->held_when_full, 10);  // of 5, 9, 14, 12
  run.scrapes.resize(3);
  EXPECT_EQ(Measure(run, {}).gauges->reached_before_preemption, 9);
  run.scrapes.clear();
  EXPECT_FALSE(Measure(run, {}).gauges);
}

TEST(LoadStatisticsTest, SloIsReadOrRefused) {
  const auto slo = load::ParseSlo({"ttft:200", "e2el:1e3"});
  ASSERT_TRUE(slo.ok());
  EXPECT_EQ(slo->ttft, 200);
  EXPECT_FALSE(slo->tpot);
  EXPECT_EQ(slo->e2el, 1000);
  for (const char* wrong : {"ttft", "ttft:", "itl:5", "ttft:-1", "ttft:x", ":5", ""}) {
    EXPECT_THAT(std::string(load::ParseSlo({wrong}).status().message()),
                ::testing::HasSubstr(wrong));
    EXPECT_FALSE(load::ParseSlo({wrong}).ok()) << wrong;
  }
}

TEST(LoadStatisticsTest, SeriesShowTheRun) {
  RunResult run;
  run.records = {Made(0, 0, {100, 200, 300}, 300), Made(500, 500, {600, 900}, 1000)};
  run.end = seconds(1);
  run.scrapes = {{.at = milliseconds(50), .running = 1, .waiting = 0, .cache_usage = 0.25},
                 {.at = milliseconds(650), .running = 2, .waiting = 3, .cache_usage = 0.5}};
  const nlohmann::json series = load::MakeSeries(run, {.ttft = 50});
  EXPECT_EQ(series["curves"]["ttft"].front(), nlohmann::json({0, 100.0}));
  EXPECT_EQ(series["curves"]["itl"].back(), nlohmann::json({100.0, 300.0}));
  EXPECT_EQ(series["curves"]["tpot"].front(), nlohmann::json({0, 100.0}));
  const auto& timeline = series["timeline"];
  ASSERT_EQ(timeline["seconds"].size(), 11U);
  EXPECT_EQ(timeline["in_flight"][0], 1.0);
  EXPECT_NEAR(timeline["in_flight"][4].get<double>(), 0, 1e-9);
  EXPECT_NEAR(timeline["in_flight"][7].get<double>(), 1, 1e-9);
  EXPECT_EQ(timeline["running"][0], 1.0);
  EXPECT_EQ(timeline["waiting"][6], 3.0);
  EXPECT_TRUE(timeline["running"][3].is_null());
  double tokens = 0;
  for (const auto& rate : timeline["tokens_per_s"]) tokens += rate.get<double>() * 0.1;
  EXPECT_NEAR(tokens, 5, 1e-9);
  // Contexts 101 and 102 of one, 101 of the other; the longest is 103.
  EXPECT_EQ(series["context"].size(), 1U);
  EXPECT_EQ(series["context"][0][1], 100.0);
  EXPECT_EQ(series["goodput"]["slo"]["ttft"], 50.0);
  EXPECT_EQ(series["goodput"]["share"].front()[1], 0.0);
  EXPECT_EQ(series["goodput"]["share"].back()[1], 1.0);
}

}  // namespace
}  // namespace strata::testing::load_statistics_test
