#pragma once

#include <optional>

namespace strata::load {

// Looks for the highest rate that a server sustains: doubles from `first` until one is not
// sustained (or halves until one is), then closes in on the border between the two, up to a factor
// of `precision`. Each rate is tried by the caller. Rates outside [lowest, highest] are not tried.
class KneeSearch {
 public:
  struct Limits {
    double first = 1;
    double precision = 1.1;
    double lowest = 1e-3;
    double highest = 1e5;
  };
  explicit KneeSearch(const Limits& limits) : limits_(limits) {}

  // The rate to try next; nothing once the search is over.
  std::optional<double> Next() const;
  void Report(double rate, bool sustained);
  // The highest rate that was sustained, if any.
  std::optional<double> knee() const { return sustained_; }

 private:
  const Limits limits_;
  std::optional<double> sustained_;  // the highest
  std::optional<double> too_much_;   // the lowest
};

}  // namespace strata::load
