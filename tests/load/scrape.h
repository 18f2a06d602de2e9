#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/mutex.h"
#include "server/cli/access.h"
#include "tests/load/clock.h"
#include "tests/load/record.h"

namespace strata::load {

// Parses one answer of /metrics, without its time. INVALID_ARGUMENT naming a missing series.
absl::StatusOr<Scrape> ParseMetrics(const std::string& text);

// Scrapes gauges from the server's HTTP address, over TLS if `access` has a CA, on the clock of the
// run, until Stop or destruction. A thread of its own.
class Scraper {
 public:
  // Scrapes once before it returns; one line if that fails. The clock outlives it.
  static absl::StatusOr<std::unique_ptr<Scraper>> Start(const std::string& address,
                                                        const server::AccessOptions& access,
                                                        Time interval, Clock* clock);
  ~Scraper() { thread_.request_stop(); }

  std::optional<Scrape> latest() const;
  // Ends, and returns all scrapes. Times are the clock's. Failed scrapes are left out, and counted.
  std::vector<Scrape> Stop(int64_t* failed);

 private:
  Scraper(const std::string& address, const server::AccessOptions& access, Time interval,
          Clock* clock);
  absl::Status ScrapeOnce();
  void Loop(const std::stop_token& stop);

  const std::string url_;
  const server::AccessOptions access_;
  const Time interval_;
  Clock* const clock_;
  mutable Mutex mutex_;
  std::vector<Scrape> scrapes_ STRATA_GUARDED_BY(mutex_);
  int64_t failed_ STRATA_GUARDED_BY(mutex_) = 0;
  std::jthread thread_;  // last: the other members outlive it
};

}  // namespace strata::load
