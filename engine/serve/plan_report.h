#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kvcache/plan/plane_map.h"
#include "kvcache/plan/sharing_plan.h"

namespace strata::engine {

// What a sharing plan costs and does, in plain values: `strata plan`, GetModel and the metrics show
// this and recompute nothing.
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

  kvcache::AttentionShape shape;
  std::string dtype;  // of the cache: "f32", "bf16", "int8", "k=int8,v=bf16" ...
  size_t bytes_per_token = 0;
  size_t key_bytes_per_token = 0;
  size_t value_bytes_per_token = 0;
  size_t plain_bytes_per_token = 0;
  double ratio = 1;                  // bytes_per_token / plain_bytes_per_token
  size_t score_bytes_per_token = 0;  // of stored scores, also where decode routes
  bool stores_scores = false;        // decode stores reused scores
  std::vector<Plane> planes;
  std::vector<Layer> layers;

  // What a token of a sequence takes while it decodes: planes, and scores where they are stored.
  size_t held_bytes_per_token() const {
    return bytes_per_token + (stores_scores ? score_bytes_per_token : 0);
  }
  // Tokens that fit `budget_bytes` in whole blocks.
  // REQUIRES: block_tokens > 0.
  int64_t TokensIn(size_t budget_bytes, int32_t block_tokens) const;
  int64_t PlainTokensIn(size_t budget_bytes, int32_t block_tokens) const;
};

// How decode applies reused scores.
enum class ScoreReuse : uint8_t {
  kAuto,   // stores them where that moves fewer bytes, decided once
  kStore,  // wherever the plan reuses scores
  kRoute,  // computes them again
};

PlanReport MakePlanReport(const kvcache::SharingPlan& plan, kvcache::CacheDTypes cache_dtypes,
                          ScoreReuse score_reuse);

// {"bytes_per_token":..,"plain_bytes_per_token":..,"ratio":..,"score_bytes_per_token":..,
//  "score_reuse":"none"|"store"|"route","planes":[{"kind":"key","layer":0,"head":0}..],"layers":[{"layer":0,"scores":[[0,0],..],
//  "keys":..,"values":..,"runs":["compute",..],"value_mix":"","summary":".."}..]} in one line.
std::string PlanReportJson(const PlanReport& report);
// The same for a person, in at most 100 columns, with how many tokens fit `budget_bytes` beside the
// plain cache. Ends with a newline.
std::string PlanReportText(const PlanReport& report, size_t budget_bytes, int32_t block_tokens);

}  // namespace strata::engine
