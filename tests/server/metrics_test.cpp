#include "server/telemetry/metrics.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/base/error_details.h"
#include "tests/server/metrics_text.h"

namespace strata::server::metrics_test {
namespace {

using testing::ValueOf;

engine::FinishedEvent Finished(int32_t index, engine::FinishReason reason,
                               const absl::Status& status) {
  engine::FinishedEvent event;
  event.index = index;
  event.reason = reason;
  event.status = status;
  event.metrics.queue_seconds = 0.004;
  event.metrics.prefill_seconds = 0.03;
  event.metrics.decode_seconds = 0.6;
  event.metrics.prompt_tokens = 7;
  event.metrics.cached_tokens = 3;
  event.metrics.generated_tokens = 5;
  return event;
}

TEST(MetricsTest, CountsAStepTokenByToken) {
  Metrics metrics;
  const std::vector<double> first = {0.02};
  const std::vector<double> gaps = {0.0002, 0.00025, 0.0003, 0.0006, 99};
  metrics.OnStep({.number = 1,
                  .begin = {},
                  .plan_seconds = 0.00001,
                  .forward_begin = {},
                  .forward_seconds = 0.002,
                  .commit_seconds = 0.00002,
                  .sequences = 7,
                  .prefill_tokens = 20,
                  .decode_tokens = 5,
                  .recomputed_tokens = 4,
                  .preemptions = 1,
                  .cache_bytes_read = 1000,
                  .cache_bytes_written = 200,
                  .first_token_seconds = first,
                  .inter_token_seconds = gaps});
  const std::string text = metrics.Render();
  const auto gap = [&text](const std::string& bound) {
    return ValueOf(text, "strata_inter_token_latency_seconds_bucket{le=\"" + bound + "\"}");
  };
  EXPECT_EQ(gap("0.00025"), "2");
  EXPECT_EQ(gap("0.0005"), "3");
  EXPECT_EQ(gap("0.00075"), "4");
  EXPECT_EQ(gap("2.5"), "4");
  EXPECT_EQ(gap("+Inf"), "5");
  EXPECT_EQ(ValueOf(text, "strata_time_to_first_token_seconds_count"), "1");
  EXPECT_EQ(ValueOf(text, "strata_generated_tokens_total"), "0");  // counted by the fronts
  EXPECT_EQ(ValueOf(text, "strata_preemptions_total"), "1");
  EXPECT_EQ(ValueOf(text, "strata_recomputed_tokens_total"), "4");
  EXPECT_EQ(ValueOf(text, "strata_cache_read_bytes_total"), "1000");
  EXPECT_EQ(ValueOf(text, "strata_cache_written_bytes_total"), "200");
  EXPECT_EQ(ValueOf(text, "strata_step_seconds_bucket{phase=\"forward\",le=\"0.0025\"}"), "1");
  EXPECT_EQ(ValueOf(text, "strata_step_seconds_bucket{phase=\"forward\",le=\"0.001\"}"), "0");
  EXPECT_EQ(ValueOf(text, "strata_step_sequences_sum"), "7");
  EXPECT_EQ(ValueOf(text, "strata_step_tokens_sum{kind=\"prefill\"}"), "20");
  EXPECT_EQ(ValueOf(text, "vllm:num_requests_running"), "absent");  // nothing is loaded
}

TEST(MetricsTest, CountsARequestOnceAndItsSequencesEach) {
  Metrics metrics;
  metrics.OnFinished("a", Finished(0, engine::FinishReason::kStop, absl::OkStatus()));
  metrics.OnFinished("a", Finished(1, engine::FinishReason::kLength, absl::OkStatus()));
  metrics.OnFinished("b",
                     Finished(0, engine::FinishReason::kError, absl::DeadlineExceededError("")));
  metrics.OnFinished("c", Finished(0, engine::FinishReason::kCancelled, absl::CancelledError("")));
  const std::string text = metrics.Render();
  const auto finished = [&text](const std::string& reason) {
    return ValueOf(text, "strata_sequences_finished_total{reason=\"" + reason + "\"}");
  };
  EXPECT_EQ(finished("stop"), "1");
  EXPECT_EQ(finished("length"), "1");
  EXPECT_EQ(finished("deadline"), "1");
  EXPECT_EQ(finished("cancelled"), "1");
  EXPECT_EQ(finished("error"), "absent");
  EXPECT_EQ(ValueOf(text, "strata_requests_total"), "3");
  EXPECT_EQ(ValueOf(text, "strata_prompt_tokens_total"), "21");
  EXPECT_EQ(ValueOf(text, "strata_cached_tokens_total"), "9");
  EXPECT_EQ(ValueOf(text, "strata_request_seconds_count"), "2");
  EXPECT_EQ(ValueOf(text, "strata_request_seconds_bucket{le=\"0.5\"}"), "0");
  EXPECT_EQ(ValueOf(text, "strata_request_seconds_bucket{le=\"1\"}"), "2");
  EXPECT_EQ(ValueOf(text, "strata_request_queue_seconds_bucket{le=\"0.005\"}"), "2");
}

TEST(MetricsTest, CountsAbortsRejectionsAndTokens) {
  Metrics metrics;
  metrics.OnAbort({.seconds = 0.002, .steps = 1});
  metrics.OnAbort({.seconds = 0.002, .steps = 0});
  metrics.CountRejection(absl::InvalidArgumentError("top_p: 2"));
  metrics.CountRejection(InField("queue", absl::ResourceExhaustedError("9 requests wait")));
  metrics.CountRejection(InField("queue", absl::ResourceExhaustedError("9 requests wait")));
  metrics.CountRejection(InField("memory", absl::ResourceExhaustedError("9 bytes")));
  metrics.CountDroppedLogLine();
  metrics.CountGeneratedTokens(3);
  metrics.CountGeneratedTokens(2);
  const std::string text = metrics.Render();
  EXPECT_EQ(ValueOf(text, "strata_abort_steps_bucket{le=\"0\"}"), "1");
  EXPECT_EQ(ValueOf(text, "strata_abort_steps_bucket{le=\"1\"}"), "2");
  EXPECT_EQ(ValueOf(text, "strata_abort_seconds_count"), "2");
  EXPECT_EQ(ValueOf(text, "strata_rejections_total{reason=\"invalid\"}"), "1");
  EXPECT_EQ(ValueOf(text, "strata_rejections_total{reason=\"queue_full\"}"), "2");
  EXPECT_EQ(ValueOf(text, "strata_rejections_total{reason=\"other\"}"), "1");
  EXPECT_EQ(ValueOf(text, "strata_access_log_dropped_lines_total"), "1");
  EXPECT_EQ(ValueOf(text, "strata_generated_tokens_total"), "5");
}

TEST(MetricsTest, GaugesAreTheLoadTheyAreRenderedFrom) {
  engine::ModelInfo model;
  model.block_tokens = 16;
  model.plan.bytes_per_token = 30;
  model.plan.key_bytes_per_token = 20;
  model.plan.value_bytes_per_token = 10;
  model.plan.plain_bytes_per_token = 40;
  model.plan.score_bytes_per_token = 12;
  const engine::Engine::Load load{.waiting = 2,
                                  .running = 3,
                                  .blocks_total = 8,
                                  .blocks_used = 4,
                                  .blocks_cached = 1,
                                  .blocks_free = 3,
                                  .score_blocks_total = 8,
                                  .score_blocks_used = 2,
                                  .step_began = {}};
  const std::string text = Metrics().Render(model, load);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"vllm:num_requests_waiting", "2"},
      {"vllm:num_requests_running", "3"},
      {"vllm:kv_cache_usage_perc", "0.5"},
      {"vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"8\"}", "1"},
      {"strata_cache_blocks{state=\"used\"}", "4"},
      {"strata_cache_blocks{state=\"cached\"}", "1"},
      {"strata_cache_blocks{state=\"free\"}", "3"},
      {"strata_cache_bytes{pool=\"keys\",state=\"used\"}", "1280"},
      {"strata_cache_bytes{pool=\"keys\",state=\"free\"}", "960"},
      {"strata_cache_bytes{pool=\"values\",state=\"used\"}", "640"},
      {"strata_cache_bytes{pool=\"values\",state=\"cached\"}", "160"},
      {"strata_cache_bytes{pool=\"scores\",state=\"used\"}", "384"},
      {"strata_cache_bytes{pool=\"scores\",state=\"free\"}", "1152"},
      {"strata_cache_bytes_per_token{cache=\"actual\"}", "30"},
      {"strata_cache_bytes_per_token{cache=\"plain\"}", "40"},
  };
  for (const auto& [series, value] : expected) EXPECT_EQ(ValueOf(text, series), value) << series;
  const double resident = std::stod(ValueOf(text, "process_resident_memory_bytes"));
  EXPECT_GT(resident, 1 << 20);
  EXPECT_GT(std::stod(ValueOf(text, "strata_allocated_bytes")), 1 << 10);
  EXPECT_NE(text.find("# TYPE vllm:num_requests_running gauge\n"), std::string::npos) << text;
}

}  // namespace
}  // namespace strata::server::metrics_test
