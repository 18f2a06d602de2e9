#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "tests/load/record.h"
#include "tests/load/run.h"

namespace strata::load {

// Progress of a run in a few lines for a person: its share done, rates of the last seconds,
// percentiles of the latest requests, the server's queue and cache.
class LiveView {
 public:
  struct Bounds {
    std::string label;
    int64_t requests = 0;               // 0: no limit
    std::optional<Time> duration = {};  // of sending
  };
  explicit LiveView(const Bounds& bounds) : bounds_(bounds) {}

  // The lines as they are now, each ended by a newline.
  std::string Text(const Progress& progress, const std::optional<Scrape>& server);

 private:
  struct Point {
    Time at{};
    int64_t ended = 0, tokens = 0;
  };
  std::string Head(const Progress& progress) const;

  const Bounds bounds_;
  std::deque<Point> points_;  // of the last seconds
  std::deque<double> ttft_, tpot_;
  int64_t ended_ = 0, failed_ = 0, cancelled_ = 0;
};

}  // namespace strata::load
