#include "server/telemetry/metric_gauges.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/telemetry/process_memory.h"

namespace strata::server {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using Labels = std::vector<ClientMetric::Label>;

ClientMetric Value(Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.gauge.value = value;
  return metric;
}

MetricFamily Gauge(const char* name, const char* help, std::vector<ClientMetric> values) {
  return {.name = name,
          .help = help,
          .type = prometheus::MetricType::Gauge,
          .metric = std::move(values)};
}

MetricFamily Gauge(const char* name, const char* help, double value) {
  return Gauge(name, help, {Value({}, value)});
}

// Bytes of one kind in blocks of a state.
ClientMetric Bytes(const char* pool, const char* state, int32_t blocks, size_t block_bytes) {
  return Value({{"pool", pool}, {"state", state}},
               static_cast<double>(blocks) * static_cast<double>(block_bytes));
}

}  // namespace

void AppendGauges(const engine::ModelInfo& model, const engine::Engine::Load& load,
                  std::vector<MetricFamily>* families) {
  families->push_back(
      Gauge("vllm:num_requests_waiting", "Sequences that wait to be admitted", load.waiting));
  families->push_back(Gauge("vllm:num_requests_running", "Sequences in the batch", load.running));
  const double usage =
      load.blocks_total == 0 ? 0 : static_cast<double>(load.blocks_used) / load.blocks_total;
  families->push_back(Gauge("vllm:kv_cache_usage_perc",
                            "Share of the blocks that sequences hold; 1 is all", usage));
  families->push_back(Gauge("vllm:cache_config_info", "Block size in tokens, and blocks",
                            {Value({{"block_size", absl::StrCat(model.block_tokens)},
                                    {"num_gpu_blocks", absl::StrCat(load.blocks_total)}},
                                   1)}));

  families->push_back(Gauge("strata_cache_blocks",
                            "Blocks: held by sequences, of the prefix cache only, or free",
                            {Value({{"state", "used"}}, load.blocks_used),
                             Value({{"state", "cached"}}, load.blocks_cached),
                             Value({{"state", "free"}}, load.blocks_free)}));
  const auto block_tokens = static_cast<size_t>(model.block_tokens);
  const size_t key_bytes = model.plan.key_bytes_per_token * block_tokens;
  const size_t value_bytes = model.plan.value_bytes_per_token * block_tokens;
  const size_t score_bytes = model.plan.score_bytes_per_token * block_tokens;
  const int32_t scores_free = load.score_blocks_total - load.score_blocks_used;
  families->push_back(
      Gauge("strata_cache_bytes",
            "The same blocks as bytes of keys and of values, and blocks of stored scores",
            {Bytes("keys", "used", load.blocks_used, key_bytes),
             Bytes("keys", "cached", load.blocks_cached, key_bytes),
             Bytes("keys", "free", load.blocks_free, key_bytes),
             Bytes("values", "used", load.blocks_used, value_bytes),
             Bytes("values", "cached", load.blocks_cached, value_bytes),
             Bytes("values", "free", load.blocks_free, value_bytes),
             Bytes("scores", "used", load.score_blocks_used, score_bytes),
             Bytes("scores", "free", scores_free, score_bytes)}));
  families->push_back(
      Gauge("strata_cache_bytes_per_token", "Of the cache: under this plan, and without sharing",
            {Value({{"cache", "actual"}}, static_cast<double>(model.plan.bytes_per_token)),
             Value({{"cache", "plain"}}, static_cast<double>(model.plan.plain_bytes_per_token))}));
}

void AppendMemoryGauges(std::vector<MetricFamily>* families) {
  families->push_back(Gauge("process_resident_memory_bytes", "Resident memory",
                            static_cast<double>(ResidentBytes())));
  families->push_back(Gauge("strata_allocated_bytes", "Allocated from malloc and not freed yet",
                            static_cast<double>(AllocatedBytes())));
}

}  // namespace strata::server
