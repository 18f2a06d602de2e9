#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace strata::kvcache {
class PlaneMap;
class SharingPlan;
}  // namespace strata::kvcache

namespace strata::engine {

// Costs and effects of a sharing plan, in plain values: `strata plan`, GetModel and the metrics
// show these and recompute nothing.
struct PlanReport {
  struct Plane {
    bool is_key = false;
    int32_t layer = 0;
    int32_t head = 0;  // kv head
  };
  // A source as [layer, head], one entry a query head of the layer.
  struct Source {
    int32_t layer = 0;
    int32_t head = 0;
  };
  struct Layer {
    int32_t layer = 0;
    std::vector<Source> scores;
    std::vector<Source> keys;
    std::vector<Source> values;
    // "compute", "reuse-scores" or "reuse-output", one entry a query head.
    std::vector<std::string> runs;
    std::string value_mix;  // "0.5 own + 0.5 first", "learnable", "" without one
    std::string summary;    // one line for people
  };

  int32_t num_layers = 0;
  int32_t num_query_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  std::string dtype;  // of the cache: "f32", "bf16", "int8", "k=int8,v=bf16" ...
  size_t bytes_per_token = 0;
  size_t key_bytes_per_token = 0;
  size_t value_bytes_per_token = 0;
  size_t plain_bytes_per_token = 0;
  double ratio = 1;                  // bytes_per_token / plain_bytes_per_token
  size_t score_bytes_per_token = 0;  // of stored scores, even if decode routes
  bool stores_scores = false;        // decode stores reused scores
  std::vector<Plane> planes;
  std::vector<Layer> layers;

  // Bytes of a token of a decoding sequence: planes, and scores if they are stored.
  size_t held_bytes_per_token() const {
    return bytes_per_token + (stores_scores ? score_bytes_per_token : 0);
  }
  // Tokens that fit `budget_bytes` in whole blocks.
  // REQUIRES: block_tokens > 0.
  int64_t TokensIn(size_t budget_bytes, int32_t block_tokens) const;
  int64_t PlainTokensIn(size_t budget_bytes, int32_t block_tokens) const;
};

// Way in which decode applies reused scores.
enum class ScoreReuse : uint8_t {
  kAuto,   // stores them if that moves fewer bytes, decided once
  kStore,  // stores them whenever the plan reuses scores
  kRoute,  // computes them again
};

PlanReport MakePlanReport(const kvcache::SharingPlan& plan, const kvcache::PlaneMap& planes,
                          ScoreReuse score_reuse);

// {"bytes_per_token":..,"plain_bytes_per_token":..,"ratio":..,"score_bytes_per_token":..,
//  "score_reuse":"none"|"store"|"route","planes":[{"kind":"key","layer":0,"head":0}..],"layers":[{"layer":0,"scores":[[0,0],..],
//  "keys":..,"values":..,"runs":["compute",..],"value_mix":"","summary":".."}..]} in one line.
std::string PlanReportJson(const PlanReport& report);
// The same for a person, in at most 100 columns, with the tokens that fit `budget_bytes`, here and
// in the plain cache. Ends with a newline.
std::string PlanReportText(const PlanReport& report, size_t budget_bytes, int32_t block_tokens);

}  // namespace strata::engine
