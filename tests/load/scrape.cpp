#include "tests/load/scrape.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "httplib.h"
#include "kvcache/base/errors.h"

namespace strata::load {
namespace {

constexpr int kTimeoutSeconds = 5;

}  // namespace

absl::StatusOr<Scrape> ParseMetrics(const std::string& text) {
  Scrape scrape;
  struct Series {
    const char* name;
    double* value;
    bool found = false;
  } wanted[] = {{"vllm:num_requests_running", &scrape.running},
                {"vllm:num_requests_waiting", &scrape.waiting},
                {"vllm:kv_cache_usage_perc", &scrape.cache_usage},
                {"strata_preemptions_total", &scrape.preemptions}};
  for (const auto line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    for (Series& series : wanted) {
      if (fields.size() == 2 && fields[0] == series.name) {
        series.found = absl::SimpleAtod(fields[1], series.value);
      }
    }
  }
  for (const Series& series : wanted) {
    if (!series.found) return absl::InvalidArgumentError(absl::StrCat("no ", series.name));
  }
  return scrape;
}

absl::StatusOr<std::unique_ptr<Scraper>> Scraper::Start(const std::string& address,
                                                        const server::AccessOptions& access,
                                                        Time interval, Clock* clock) {
  std::unique_ptr<Scraper> scraper(new Scraper(address, access, interval, clock));
  RETURN_IF_ERROR(scraper->ScrapeOnce());
  scraper->thread_ =
      std::jthread([self = scraper.get()](const std::stop_token& stop) { self->Loop(stop); });
  return scraper;
}

Scraper::Scraper(const std::string& address, const server::AccessOptions& access, Time interval,
                 Clock* clock)
    : url_(absl::StrCat(access.tls_ca.empty() ? "http://" : "https://", address)),
      access_(access),
      interval_(interval),
      clock_(clock) {}

absl::Status Scraper::ScrapeOnce() {
  httplib::Client client(url_, access_.tls_cert, access_.tls_key);
  if (!access_.tls_ca.empty()) client.set_ca_cert_path(access_.tls_ca);
  client.set_connection_timeout(kTimeoutSeconds);
  client.set_read_timeout(kTimeoutSeconds);
  const Time at = clock_->Now();
  const auto answer = client.Get("/metrics");
  if (!answer || answer->status != 200) {
    return absl::UnavailableError(absl::StrCat(
        url_, "/metrics: ",
        answer ? absl::StrCat("status ", answer->status) : httplib::to_string(answer.error())));
  }
  auto scrape = ParseMetrics(answer->body);
  if (!scrape.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(url_, "/metrics: ", std::string(scrape.status().message())));
  }
  scrape->at = at;
  const MutexLock lock(mutex_);
  scrapes_.push_back(*scrape);
  return absl::OkStatus();
}

void Scraper::Loop(const std::stop_token& stop) {
  for (Time next = clock_->Now(); !stop.stop_requested();) {
    next += interval_;
    while (clock_->Now() < next && !stop.stop_requested()) {
      std::this_thread::sleep_for(std::min<Time>(interval_, std::chrono::milliseconds(20)));
    }
    if (!ScrapeOnce().ok()) {
      const MutexLock lock(mutex_);
      ++failed_;
    }
    next = std::max(next, clock_->Now() - interval_);  // no catching up after a slow scrape
  }
}

std::optional<Scrape> Scraper::latest() const {
  const MutexLock lock(mutex_);
  if (scrapes_.empty()) return std::nullopt;
  return scrapes_.back();
}

std::vector<Scrape> Scraper::Stop(int64_t* failed) {
  thread_.request_stop();
  if (thread_.joinable()) thread_.join();
  const MutexLock lock(mutex_);
  *failed = failed_;
  return std::move(scrapes_);
}

}  // namespace strata::load
