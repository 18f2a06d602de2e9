#include "engine/serve/plan_report.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/model/formats.h"
#include "kernels/check.h"
#include "kvcache/plan/plan_text.h"
#include "kvcache/plan/plane_map.h"
#include "kvcache/plan/sharing_plan.h"
#include "nlohmann/json.hpp"

namespace strata::engine {
namespace {

using kvcache::HeadRef;
using Json = nlohmann::json;

constexpr size_t kMaxColumns = 100;
constexpr size_t kNameColumns = 10;

const char* RunName(kvcache::HeadRun run) {
  switch (run) {
    case kvcache::HeadRun::kComputeScores:
      return "compute";
    case kvcache::HeadRun::kReuseScores:
      return "reuse-scores";
    case kvcache::HeadRun::kReuseOutput:
      return "reuse-output";
  }
  return "?";
}

int64_t WholeBlocks(size_t budget_bytes, size_t bytes_per_token, int32_t block_tokens) {
  STRATA_CHECK(block_tokens > 0, "a block holds tokens");
  STRATA_CHECK(bytes_per_token > 0, "a report of a plan");
  const size_t blocks = budget_bytes / (bytes_per_token * static_cast<size_t>(block_tokens));
  return static_cast<int64_t>(blocks) * block_tokens;
}

const char* ScoreReuseName(const PlanReport& report) {
  if (report.score_bytes_per_token == 0) return "none";
  return report.stores_scores ? "store" : "route";
}

Json SourcesJson(const std::vector<PlanReport::Source>& sources) {
  Json list = Json::array();
  for (const PlanReport::Source& source : sources) {
    list.push_back(Json::array({source.layer, source.head}));
  }
  return list;
}

// 1234567 as "1,234,567".
std::string Grouped(uint64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

// A row of the table of layers; layers with equal rows share one.
struct Row {
  std::string layers, scores, keys, values, mix;
};

std::string DescribeSources(const PlanReport& report, const PlanReport::Layer& layer,
                            const std::vector<PlanReport::Source>& sources, bool of_kv_heads) {
  const kvcache::AttentionShape shape = {report.num_layers, report.num_query_heads,
                                         report.num_kv_heads, report.head_dim};
  std::vector<HeadRef> from;
  std::vector<HeadRef> same;
  for (const PlanReport::Source& source : sources) {
    const auto head = static_cast<int32_t>(from.size());
    from.push_back({source.layer, source.head});
    same.push_back({layer.layer, of_kv_heads ? shape.KvHeadOf(head) : head});
  }
  return kvcache::DescribeSources(layer.layer, from, same);
}

std::vector<Row> LayerRows(const PlanReport& report) {
  std::vector<Row> rows;
  int32_t first = 0;
  for (const PlanReport::Layer& layer : report.layers) {
    Row row = {.layers = absl::StrCat(layer.layer),
               .scores = DescribeSources(report, layer, layer.scores, false),
               .keys = DescribeSources(report, layer, layer.keys, true),
               .values = DescribeSources(report, layer, layer.values, true),
               .mix = layer.value_mix};
    const bool same = !rows.empty() && rows.back().scores == row.scores &&
                      rows.back().keys == row.keys && rows.back().values == row.values &&
                      rows.back().mix == row.mix;
    if (same) {
      rows.back().layers = absl::StrCat(first, "-", layer.layer);
    } else {
      first = layer.layer;
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

std::string Padded(std::string text, size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text;
}

// "  name  text", continued under `text` if the line is full.
void AppendField(std::string& out, const std::string& name, const std::string& text) {
  std::string line = "  " + Padded(name, kNameColumns);
  const size_t indent = line.size();
  for (const absl::string_view item : absl::StrSplit(text, ", ")) {
    if (line.size() > indent && line.size() + item.size() + 3 > kMaxColumns) {
      absl::StrAppend(&out, line, ",\n");
      line.assign(indent, ' ');
    }
    absl::StrAppend(&line, line.size() > indent ? ", " : "", item);
  }
  absl::StrAppend(&out, line, "\n");
}

// One line a row if all rows fit; else one field a line.
void AppendLayerTable(std::string& out, const std::vector<Row>& rows) {
  size_t scores = 6, keys = 4, values = 6, mix = 0;
  for (const Row& row : rows) {
    scores = std::max(scores, row.scores.size());
    keys = std::max(keys, row.keys.size());
    values = std::max(values, row.values.size());
    mix = std::max(mix, row.mix.size());
  }
  const bool one_line = 2 + kNameColumns + scores + keys + values + mix + 3 * 3 <= kMaxColumns;
  if (!one_line) {
    for (const Row& row : rows) {
      AppendField(out, "layer", row.layers);
      AppendField(out, "  scores", row.scores);
      AppendField(out, "  keys", row.keys);
      AppendField(out, "  values", row.values);
      if (!row.mix.empty()) AppendField(out, "  mix", row.mix);
    }
    return;
  }
  const auto append = [&](const Row& row) {
    std::string line =
        absl::StrCat("  ", Padded(row.layers, kNameColumns), Padded(row.scores, scores), " | ",
                     Padded(row.keys, keys), " | ", Padded(row.values, values));
    if (mix > 0) absl::StrAppend(&line, " | ", row.mix);
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  };
  append({.layers = "layer", .scores = "scores", .keys = "keys", .values = "values", .mix = "mix"});
  for (const Row& row : rows) append(row);
}

// The planes of one kind, as "layers 0-3: heads 0-1; layer 6: head 1".
std::string DescribePlanes(const PlanReport& report, bool keys) {
  std::map<int32_t, std::vector<int32_t>> heads_of;  // [layer]
  for (const PlanReport::Plane& plane : report.planes) {
    if (plane.is_key == keys) heads_of[plane.layer].push_back(plane.head);
  }
  std::vector<std::pair<std::vector<int32_t>, std::vector<int32_t>>> groups;  // layers, heads
  for (const auto& [layer, heads] : heads_of) {
    if (groups.empty() || groups.back().second != heads) groups.push_back({{}, heads});
    groups.back().first.push_back(layer);
  }
  std::string text;
  for (const auto& [layers, heads] : groups) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", layers.size() == 1 ? "layer " : "layers ",
                    kvcache::DescribeHeads(layers), heads.size() == 1 ? " head " : " heads ",
                    kvcache::DescribeHeads(heads));
  }
  return text;
}

}  // namespace

int64_t PlanReport::TokensIn(size_t budget_bytes, int32_t block_tokens) const {
  return WholeBlocks(budget_bytes, held_bytes_per_token(), block_tokens);
}

int64_t PlanReport::PlainTokensIn(size_t budget_bytes, int32_t block_tokens) const {
  return WholeBlocks(budget_bytes, plain_bytes_per_token, block_tokens);
}

PlanReport MakePlanReport(const kvcache::SharingPlan& plan, const kvcache::PlaneMap& planes,
                          ScoreReuse score_reuse) {
  PlanReport report;
  report.num_layers = plan.shape().num_layers;
  report.num_query_heads = plan.shape().num_query_heads;
  report.num_kv_heads = plan.shape().num_kv_heads;
  report.head_dim = plan.shape().head_dim;
  report.dtype = CacheFormatsName(planes.formats());
  report.bytes_per_token = planes.bytes_per_token();
  report.key_bytes_per_token = planes.key_bytes_per_token();
  report.value_bytes_per_token = planes.value_bytes_per_token();
  report.plain_bytes_per_token = planes.plain_bytes_per_token();
  report.ratio = static_cast<double>(report.bytes_per_token) /
                 static_cast<double>(report.plain_bytes_per_token);
  report.score_bytes_per_token = planes.score_bytes_per_token();
  report.stores_scores = report.score_bytes_per_token > 0 &&
                         (score_reuse == ScoreReuse::kStore ||
                          (score_reuse == ScoreReuse::kAuto && planes.storing_scores_pays()));
  for (const kvcache::Plane& plane : planes.planes()) {
    report.planes.push_back({.is_key = plane.kind == kernels::PlaneKind::kKey,
                             .layer = plane.head.layer,
                             .head = plane.head.head});
  }
  const std::vector<std::string> summaries = plan.DescribeLayers();
  for (int32_t i = 0; i < plan.shape().num_layers; ++i) {
    PlanReport::Layer layer;
    layer.layer = i;
    for (int32_t head = 0; head < plan.shape().num_query_heads; ++head) {
      const kvcache::HeadSources& from = plan.sources(i, head);
      layer.scores.push_back({from.scores.layer, from.scores.head});
      layer.keys.push_back({from.keys.layer, from.keys.head});
      layer.values.push_back({from.values.layer, from.values.head});
      layer.runs.push_back(RunName(plan.Run(i, head)));
    }
    layer.value_mix = kvcache::DescribeMix(plan, i);
    layer.summary = summaries[static_cast<size_t>(i)];
    report.layers.push_back(std::move(layer));
  }
  return report;
}

std::string PlanReportJson(const PlanReport& report) {
  Json planes = Json::array();
  for (const PlanReport::Plane& plane : report.planes) {
    planes.push_back(
        {{"kind", plane.is_key ? "key" : "value"}, {"layer", plane.layer}, {"head", plane.head}});
  }
  Json layers = Json::array();
  for (const PlanReport::Layer& layer : report.layers) {
    layers.push_back({{"layer", layer.layer},
                      {"scores", SourcesJson(layer.scores)},
                      {"keys", SourcesJson(layer.keys)},
                      {"values", SourcesJson(layer.values)},
                      {"runs", layer.runs},
                      {"value_mix", layer.value_mix},
                      {"summary", layer.summary}});
  }
  return Json{{"num_layers", report.num_layers},
              {"num_query_heads", report.num_query_heads},
              {"num_kv_heads", report.num_kv_heads},
              {"head_dim", report.head_dim},
              {"dtype", report.dtype},
              {"bytes_per_token", report.bytes_per_token},
              {"key_bytes_per_token", report.key_bytes_per_token},
              {"value_bytes_per_token", report.value_bytes_per_token},
              {"plain_bytes_per_token", report.plain_bytes_per_token},
              {"ratio", report.ratio},
              {"score_bytes_per_token", report.score_bytes_per_token},
              {"score_reuse", ScoreReuseName(report)},
              {"planes", std::move(planes)},
              {"layers", std::move(layers)}}
      .dump();
}

std::string PlanReportText(const PlanReport& report, size_t budget_bytes, int32_t block_tokens) {
  const auto tokens = static_cast<uint64_t>(report.TokensIn(budget_bytes, block_tokens));
  const auto plain = static_cast<uint64_t>(report.PlainTokensIn(budget_bytes, block_tokens));
  const size_t plain_planes =
      2 * static_cast<size_t>(report.num_layers) * static_cast<size_t>(report.num_kv_heads);
  std::string out = absl::StrCat(report.num_layers, " layers, ", report.num_query_heads,
                                 " query heads, ", report.num_kv_heads, " kv heads of ",
                                 report.head_dim, ", cache in ", report.dtype, "\n\n");
  absl::StrAppend(&out, "Which layer's scores, keys and values each layer uses:\n");
  AppendLayerTable(out, LayerRows(report));
  absl::StrAppend(&out, "\nPlanes held, ", report.planes.size(), " of the plain cache's ",
                  plain_planes, ":\n");
  AppendField(out, "keys", DescribePlanes(report, true));
  AppendField(out, "values", DescribePlanes(report, false));
  absl::StrAppend(&out, "\nBytes a token:\n");
  AppendField(
      out, "this plan",
      absl::StrCat(Grouped(report.bytes_per_token), " (keys ", Grouped(report.key_bytes_per_token),
                   " + values ", Grouped(report.value_bytes_per_token), ") = ", 100 * report.ratio,
                   " % of plain"));
  AppendField(out, "plain", Grouped(report.plain_bytes_per_token));
  if (report.score_bytes_per_token > 0) {
    std::string text = Grouped(report.score_bytes_per_token);
    absl::StrAppend(&text, report.stores_scores ? " more while a sequence decodes (stored)"
                                                : " if they were stored (they are routed)");
    AppendField(out, "scores", text);
  }
  absl::StrAppend(&out, "\nTokens in ", Grouped(budget_bytes), " bytes, blocks of ", block_tokens,
                  ":\n");
  AppendField(out, "this plan", Grouped(tokens));
  AppendField(out, "plain", Grouped(plain));
  return out;
}

}  // namespace strata::engine
