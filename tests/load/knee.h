#pragma once

#include <optional>

namespace strata::load {

// Searches the highest rate that a server sustains: doubles from `first` until a rate is not
// sustained (or halves until one is), then closes in on the border between the two, up to a factor
// of `precision`. The caller tries each rate. Rates outside [lowest, highest] are not tried.
class KneeSearch {
 public:
  struct Limits {
    double first = 1;
    double precision = 1.1;
    double lowest = 1e-3;
    double highest = 1e5;
  };
  explicit KneeSearch(const Limits& limits) : limits_(limits) {}

  // The rate to try next; nullopt once the search is over.
  std::optional<double> Next() const;
  void Report(double rate, bool sustained);
  // The highest rate that was sustained, if any.
  std::optional<double> knee() const { return sustained_; }

 private:
  const Limits limits_;
  std::optional<double> sustained_;  // the highest sustained rate
  std::optional<double> too_much_;   // the lowest rate that was not sustained
};

}  // namespace strata::load
