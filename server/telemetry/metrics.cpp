#include "server/telemetry/metrics.h"

#include <algorithm>
#include <span>
#include <sstream>
#include <utility>
#include <vector>

#include "kvcache/base/error_details.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "server/telemetry/metric_gauges.h"
#include "spdlog/spdlog.h"

namespace strata::server {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Histogram;
using prometheus::Registry;
using Bounds = Histogram::BucketBoundaries;

// Seconds. Single steps of a small model take less than a millisecond.
const Bounds kTokenBounds = {0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004,
                             0.005,   0.0075, 0.01,    0.015, 0.02,   0.03,  0.04,  0.05,
                             0.075,   0.1,    0.15,    0.2,   0.3,    0.5,   1,     2.5};
const Bounds kRequestBounds = {0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                               0.5,     1,      2.5,   5,      10,    20,   40,    80,   160, 640};
const Bounds kPhaseBounds = {0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005,
                             0.001,   0.0025,   0.005,   0.01,   0.025,   0.05,
                             0.1,     0.25,     0.5,     1,      2.5,     10};
const Bounds kCountBounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
const Bounds kAbortStepBounds = {0, 1, 2, 4, 8};

Family<Counter>& AddCounter(Registry* registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
}

Counter& AddOne(Registry* registry, const char* name, const char* help) {
  return AddCounter(registry, name, help).Add({});
}

Family<Histogram>& AddHistogram(Registry* registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry);
}

Histogram& AddOne(Registry* registry, const char* name, const char* help, const Bounds& bounds) {
  return AddHistogram(registry, name, help).Add({}, bounds);
}

// Takes one lock for all of a step's values.
void ObserveAll(Histogram* histogram, const Bounds& bounds, std::span<const double> values) {
  if (values.empty()) return;
  std::vector<double> counts(bounds.size() + 1);
  double sum = 0;
  for (const double value : values) {
    const auto bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
    ++counts[static_cast<size_t>(bucket)];
    sum += value;
  }
  histogram->ObserveMultiple(counts, sum);
}

const char* ReasonOf(const engine::FinishedEvent& event) {
  if (absl::IsDeadlineExceeded(event.status)) return "deadline";
  if (absl::IsUnavailable(event.status)) return "shutdown";
  return engine::FinishReasonName(event.reason);
}

// Reason of a rejection by a limit; the status names the limit as its field.
const char* ExhaustedOf(const absl::Status& status) {
  const std::string field = FieldOf(status);
  if (field == "queue") return "queue_full";
  if (field == "api_key") return "key_limit";
  if (field == "http") return "http_limit";
  if (field == "eventfd") return "no_descriptor";
  return "other";
}

const char* RejectionOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return "invalid";
    case absl::StatusCode::kUnauthenticated:
      return "unauthenticated";
    case absl::StatusCode::kResourceExhausted:
      return ExhaustedOf(status);
    case absl::StatusCode::kUnavailable:
      return "draining";
    case absl::StatusCode::kAlreadyExists:
      return "duplicate_id";
    case absl::StatusCode::kNotFound:
      return "unknown_model";
    case absl::StatusCode::kUnimplemented:
      return "unimplemented";
    default:
      return "other";
  }
}

}  // namespace

struct Metrics::Series {
  Registry registry;

  Histogram& first_token = AddOne(&registry, "strata_time_to_first_token_seconds",
                                  "From submission to a sequence's first token", kRequestBounds);
  Histogram& inter_token = AddOne(&registry, "strata_inter_token_latency_seconds",
                                  "Between a sequence's tokens, token by token", kTokenBounds);
  Histogram& end_to_end = AddOne(&registry, "strata_request_seconds",
                                 "From submission to a sequence's last token", kRequestBounds);
  Histogram& queue = AddOne(&registry, "strata_request_queue_seconds",
                            "From submission to the first step", kRequestBounds);
  Histogram& prefill = AddOne(&registry, "strata_request_prefill_seconds",
                              "From the first step to the first token", kRequestBounds);
  Histogram& decode = AddOne(&registry, "strata_request_decode_seconds",
                             "From the first token to the last", kRequestBounds);

  Counter& requests =
      AddOne(&registry, "strata_requests_total", "Requests that were accepted and have ended");
  Family<Counter>& finished = AddCounter(&registry, "strata_sequences_finished_total",
                                         "Sequences that have ended, by what ended them");
  Family<Counter>& rejections =
      AddCounter(&registry, "strata_rejections_total", "Requests that were refused");
  Counter& prompt_tokens =
      AddOne(&registry, "strata_prompt_tokens_total", "Prompt tokens of requests that have ended");
  Counter& cached_tokens = AddOne(&registry, "strata_cached_tokens_total",
                                  "Of the prompt tokens: taken from the prefix cache");
  Counter& generated_tokens = AddOne(&registry, "strata_generated_tokens_total",
                                     "Tokens of the output, up to a stop string");
  Counter& preemptions = AddOne(&registry, "strata_preemptions_total",
                                "Times that a running sequence gave its blocks to another");
  Counter& recomputed_tokens = AddOne(&registry, "strata_recomputed_tokens_total",
                                      "Tokens computed again after a preemption");
  Histogram& abort_seconds =
      AddOne(&registry, "strata_abort_seconds",
             "From a cancel, a deadline or a time limit until the blocks were free", kPhaseBounds);
  Histogram& abort_steps = AddOne(&registry, "strata_abort_steps",
                                  "Steps that ended in the same time", kAbortStepBounds);

  Family<Histogram>& phases =
      AddHistogram(&registry, "strata_step_seconds", "Parts of the engine's steps");
  Histogram& plan = phases.Add({{"phase", "plan"}}, kPhaseBounds);
  Histogram& forward = phases.Add({{"phase", "forward"}}, kPhaseBounds);
  Histogram& commit = phases.Add({{"phase", "commit"}}, kPhaseBounds);
  Histogram& sequences =
      AddOne(&registry, "strata_step_sequences", "Sequences in a step", kCountBounds);
  Family<Histogram>& rows =
      AddHistogram(&registry, "strata_step_tokens", "Tokens that a step computed");
  Histogram& prefill_rows = rows.Add({{"kind", "prefill"}}, kCountBounds);
  Histogram& decode_rows = rows.Add({{"kind", "decode"}}, kCountBounds);
  Counter& bytes_read =
      AddOne(&registry, "strata_cache_read_bytes_total", "Read from the cache by attention");
  Counter& bytes_written =
      AddOne(&registry, "strata_cache_written_bytes_total", "Written to the cache");
  Counter& dropped_lines = AddOne(&registry, "strata_access_log_dropped_lines_total",
                                  "Lines that the access log could not keep");
};

Metrics::Metrics() : series_(std::make_unique<Series>()) {}
Metrics::~Metrics() = default;

void Metrics::OnStep(const engine::StepStats& step) {
  Series& s = *series_;
  s.plan.Observe(step.plan_seconds);
  s.forward.Observe(step.forward_seconds);
  s.commit.Observe(step.commit_seconds);
  s.sequences.Observe(step.sequences);
  if (step.prefill_tokens > 0) s.prefill_rows.Observe(step.prefill_tokens);
  if (step.decode_tokens > 0) s.decode_rows.Observe(step.decode_tokens);
  s.preemptions.Increment(step.preemptions);
  s.recomputed_tokens.Increment(step.recomputed_tokens);
  s.bytes_read.Increment(static_cast<double>(step.cache_bytes_read));
  s.bytes_written.Increment(static_cast<double>(step.cache_bytes_written));
  ObserveAll(&s.first_token, kRequestBounds, step.first_token_seconds);
  ObserveAll(&s.inter_token, kTokenBounds, step.inter_token_seconds);
}

void Metrics::OnFinished(const std::string& /*request_id*/, const engine::FinishedEvent& event) {
  Series& s = *series_;
  const engine::RequestMetrics& m = event.metrics;
  s.finished.Add({{"reason", ReasonOf(event)}}).Increment();
  if (event.index == 0) {
    s.requests.Increment();
    s.prompt_tokens.Increment(m.prompt_tokens);
    s.cached_tokens.Increment(m.cached_tokens);
  }
  if (!event.status.ok()) return;  // cut short: its latencies do not measure the server
  s.end_to_end.Observe(m.queue_seconds + m.prefill_seconds + m.decode_seconds);
  s.queue.Observe(m.queue_seconds);
  s.prefill.Observe(m.prefill_seconds);
  s.decode.Observe(m.decode_seconds);
}

void Metrics::OnNote(const std::string& note) { spdlog::warn("{}", note); }

void Metrics::OnAbort(const engine::AbortStats& abort) {
  series_->abort_seconds.Observe(abort.seconds);
  series_->abort_steps.Observe(static_cast<double>(abort.steps));
}

void Metrics::CountRejection(const absl::Status& status) {
  series_->rejections.Add({{"reason", RejectionOf(status)}}).Increment();
}

void Metrics::CountGeneratedTokens(size_t count) {
  series_->generated_tokens.Increment(static_cast<double>(count));
}

void Metrics::CountDroppedLogLine() { series_->dropped_lines.Increment(); }

std::string Metrics::Render() const {
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, series_->registry.Collect());
  return std::move(text).str();
}

std::string Metrics::Render(const engine::ModelInfo& model,
                            const engine::Engine::Load& load) const {
  std::vector<prometheus::MetricFamily> families = series_->registry.Collect();
  AppendGauges(model, load, &families);
  AppendMemoryGauges(&families);
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return std::move(text).str();
}

}  // namespace strata::server
