#include "tests/load/live_view.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/load/statistics.h"

namespace strata::load {
namespace {

constexpr Time kRecent = std::chrono::seconds(5);
constexpr size_t kLatest = 500;  // requests
constexpr int kBarWidth = 24;

void Push(double value, std::deque<double>* latest) {
  latest->push_back(value);
  if (latest->size() > kLatest) latest->pop_front();
}

std::string Row(const char* name, const std::deque<double>& latest) {
  if (latest.empty()) return absl::StrFormat("%s -", name);
  std::vector<double> sorted(latest.begin(), latest.end());
  std::sort(sorted.begin(), sorted.end());
  return absl::StrFormat("%s p50 %.1f p95 %.1f p99 %.1f ms", name, Percentile(sorted, 50),
                         Percentile(sorted, 95), Percentile(sorted, 99));
}

}  // namespace

std::string LiveView::Text(const Progress& progress, const std::optional<Scrape>& server) {
  for (const size_t index : progress.ended) {
    const Record& record = (*progress.records)[index];
    ++ended_;
    failed_ += record.outcome == Outcome::kFailed || record.outcome == Outcome::kRejected;
    cancelled_ += record.outcome == Outcome::kCancelled;
    if (record.outcome != Outcome::kCompleted || record.arrivals.empty()) continue;
    Push(FirstTokenMs(record), &ttft_);
    if (const auto per_token = PerTokenMs(record)) Push(*per_token, &tpot_);
  }
  points_.push_back({.at = progress.now, .ended = ended_, .tokens = progress.tokens});
  while (points_.size() > 2 && points_[1].at <= progress.now - kRecent) points_.pop_front();
  const double seconds = std::max(1e-3, Seconds(progress.now - points_.front().at));
  std::string text = Head(progress);
  absl::StrAppendFormat(&text,
                        "in flight %d, ended %d, failed %d, cancelled %d; %.1f requests/s, "
                        "%.0f tokens/s\n",
                        progress.in_flight, ended_, failed_, cancelled_,
                        static_cast<double>(ended_ - points_.front().ended) / seconds,
                        static_cast<double>(progress.tokens - points_.front().tokens) / seconds);
  absl::StrAppend(&text, Row("first token", ttft_), "; ", Row("per token", tpot_), "\n");
  if (server) {
    absl::StrAppendFormat(
        &text, "server: running %.0f, waiting %.0f, cache %.0f %%, preemptions %.0f\n",
        server->running, server->waiting, 100 * server->cache_usage, server->preemptions);
  }
  return text;
}

std::string LiveView::Head(const Progress& progress) const {
  double share = 0;
  if (bounds_.requests > 0) {
    share = static_cast<double>(ended_) / static_cast<double>(bounds_.requests);
  }
  if (bounds_.duration && *bounds_.duration > Time(0)) {
    share = std::max(share, Seconds(progress.now) / Seconds(*bounds_.duration));
  }
  share = std::min(share, 1.0);
  const int full = static_cast<int>(share * kBarWidth);
  return absl::StrFormat(
      "%s[%s%s] %3.0f %%  %.0f s\n", bounds_.label.empty() ? "" : bounds_.label + " ",
      std::string(static_cast<size_t>(full), '#'),
      std::string(static_cast<size_t>(kBarWidth - full), '.'), 100 * share, Seconds(progress.now));
}

}  // namespace strata::load
