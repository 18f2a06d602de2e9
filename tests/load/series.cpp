#include "tests/load/series.h"

#include <algorithm>
#include <cmath>

namespace strata::load {
namespace {

using nlohmann::json;

constexpr int kTimelineBins = 300;
constexpr int kContextBins = 24;

bool IsMeasured(const Record& record, const RunResult& run) {
  return record.outcome == Outcome::kCompleted && !record.arrivals.empty() &&
         record.intended >= run.begin && record.intended <= run.end;
}

// Percentiles are denser at high latencies.
json Curve(std::vector<double> samples) {
  json curve = json::array();
  if (samples.empty()) return curve;
  std::sort(samples.begin(), samples.end());
  for (int percent = 0; percent < 99; ++percent) {
    curve.push_back({percent, Percentile(samples, percent)});
  }
  for (int part = 0; part <= 10; ++part) {
    const double percent = 99 + part / 10.0;
    curve.push_back({percent, Percentile(samples, percent)});
  }
  return curve;
}

// Calls visit(tokens before it, milliseconds) for every token after the first.
template <class Visit>
void ForEachGap(const Record& record, Visit visit) {
  int32_t context = record.input_tokens + record.arrivals.front().tokens();
  for (size_t i = 1; i < record.arrivals.size(); ++i) {
    const Arrival& arrival = record.arrivals[i];
    const double gap = Seconds(arrival.at() - record.arrivals[i - 1].at()) * 1e3 / arrival.tokens();
    for (int32_t token = 0; token < arrival.tokens(); ++token) visit(context++, gap);
  }
}

json Curves(const RunResult& run) {
  std::vector<double> ttft, tpot, itl, e2el;
  for (const Record& record : run.records) {
    if (!IsMeasured(record, run)) continue;
    ttft.push_back(FirstTokenMs(record));
    e2el.push_back(EndMs(record));
    if (const auto per_token = PerTokenMs(record)) tpot.push_back(*per_token);
    ForEachGap(record, [&itl](int32_t, double gap) { itl.push_back(gap); });
  }
  return {{"ttft", Curve(std::move(ttft))},
          {"tpot", Curve(std::move(tpot))},
          {"itl", Curve(std::move(itl))},
          {"e2el", Curve(std::move(e2el))}};
}

json Context(const RunResult& run) {
  int32_t longest = 1;
  for (const Record& record : run.records) {
    longest = std::max(longest, record.input_tokens + record.output_tokens);
  }
  std::vector<std::vector<double>> bins(kContextBins);
  const double width = static_cast<double>(longest) / kContextBins;
  for (const Record& record : run.records) {
    if (!IsMeasured(record, run)) continue;
    ForEachGap(record, [&](int32_t context, double gap) {
      const auto bin = static_cast<size_t>(context / width);
      bins[std::min<size_t>(bin, kContextBins - 1)].push_back(gap);
    });
  }
  json context = json::array();
  for (size_t i = 0; i < bins.size(); ++i) {
    if (bins[i].empty()) continue;
    std::sort(bins[i].begin(), bins[i].end());
    context.push_back({std::round((static_cast<double>(i) + 0.5) * width), Percentile(bins[i], 50),
                       Percentile(bins[i], 95)});
  }
  return context;
}

// The timeline of the whole run, unmeasured parts included.
json Timeline(const RunResult& run) {
  Time end = run.end;
  for (const Record& record : run.records) end = std::max({end, record.end, record.sent});
  const double width = std::max(0.1, Seconds(end) / kTimelineBins);
  const auto bins = static_cast<size_t>(Seconds(end) / width) + 1;
  const auto bin_of = [width](Time at) { return static_cast<size_t>(Seconds(at) / width); };
  std::vector<double> seconds, tokens(bins), in_flight(bins);
  for (const Record& record : run.records) {
    for (const Arrival& arrival : record.arrivals) {
      tokens[bin_of(arrival.at())] += arrival.tokens() / width;
    }
    // Adds the share of each bin during which the request was in flight.
    const double from = Seconds(record.sent);
    const double to = record.end > Time(0) ? Seconds(record.end) : Seconds(end);
    for (size_t bin = bin_of(record.sent); bin < bins; ++bin) {
      const double left = std::max(from, static_cast<double>(bin) * width);
      const double right = std::min(to, static_cast<double>(bin + 1) * width);
      if (right <= left && static_cast<double>(bin) * width > to) break;
      in_flight[bin] += std::max(0.0, right - left) / width;
    }
  }
  json timeline = {{"tokens_per_s", tokens}, {"in_flight", in_flight}};
  for (size_t bin = 0; bin < bins; ++bin)
    seconds.push_back((static_cast<double>(bin) + 0.5) * width);
  timeline["seconds"] = seconds;
  const struct {
    const char* key;
    double Scrape::*value;
  } gauges[] = {{"running", &Scrape::running},
                {"waiting", &Scrape::waiting},
                {"cache_usage", &Scrape::cache_usage},
                {"preemptions", &Scrape::preemptions}};
  for (const auto& gauge : gauges) {
    if (run.scrapes.empty()) {
      timeline[gauge.key] = nullptr;
      continue;
    }
    std::vector<json> values(bins);  // null without a scrape
    for (const Scrape& scrape : run.scrapes) {
      const size_t bin = std::min(bin_of(std::max(scrape.at, Time(0))), bins - 1);
      const double before = values[bin].is_null() ? 0 : values[bin].get<double>();
      values[bin] = std::max(before, scrape.*gauge.value);
    }
    timeline[gauge.key] = values;
  }
  return timeline;
}

json Goodput(const RunResult& run, Slo slo) {
  const bool given = slo.any();
  std::vector<double> ttft, tpot;
  int64_t judged = 0;
  for (const Record& record : run.records) {
    if (record.intended < run.begin || record.intended > run.end) continue;
    judged += record.outcome != Outcome::kCancelled && record.outcome != Outcome::kUnfinished;
    if (!IsMeasured(record, run)) continue;
    ttft.push_back(FirstTokenMs(record));
    tpot.push_back(PerTokenMs(record).value_or(0));
  }
  if (ttft.empty()) return nullptr;
  if (!given) {
    std::sort(ttft.begin(), ttft.end());
    std::sort(tpot.begin(), tpot.end());
    slo.ttft = 2 * Percentile(ttft, 50);
    slo.tpot = 2 * Percentile(tpot, 50);
  }
  json share = json::array();
  for (int step = -20; step <= 20; ++step) {
    const double factor = std::exp2(step / 5.0);
    Slo scaled;
    if (slo.ttft) scaled.ttft = *slo.ttft * factor;
    if (slo.tpot) scaled.tpot = *slo.tpot * factor;
    if (slo.e2el) scaled.e2el = *slo.e2el * factor;
    int64_t good = 0;
    for (const Record& record : run.records) {
      good += IsMeasured(record, run) && MeetsSlo(record, scaled);
    }
    share.push_back({factor, static_cast<double>(good) / static_cast<double>(judged)});
  }
  json limits = json::object();
  if (slo.ttft) limits["ttft"] = *slo.ttft;
  if (slo.tpot) limits["tpot"] = *slo.tpot;
  if (slo.e2el) limits["e2el"] = *slo.e2el;
  return {{"slo", limits}, {"given", given}, {"share", share}};
}

}  // namespace

json MakeSeries(const RunResult& run, const Slo& slo) {
  return {{"curves", Curves(run)},
          {"timeline", Timeline(run)},
          {"context", Context(run)},
          {"goodput", Goodput(run, slo)}};
}

}  // namespace strata::load
