#pragma once

#include <cstdint>
#include <optional>

#include "tests/load/clock.h"
#include "tests/load/random.h"

namespace strata::load {

// The moments at which an open loop sends, independent of the server. They are drawn on a clock
// that runs as fast as the rate, so that a changing rate is followed exactly: gaps of mean 1 are
// summed, and each sum is the moment at which as many arrivals are expected.
class Arrivals {
 public:
  struct Options {
    double rate = 1;        // a second; may be infinite: all at once
    double burstiness = 1;  // 1: Poisson; below: in bursts; above: more even; infinite: constant
    // The rate goes from `rate` to `end_rate` in `ramp`, and stays there.
    std::optional<double> end_rate;
    Time ramp{};
    bool exponential = false;  // the ramp; else linear
    uint64_t seed = 0;
  };
  explicit Arrivals(const Options& options) : options_(options), random_(options.seed) {}

  Time Next();

 private:
  Time At(double expected) const;

  const Options options_;
  Random random_;
  double expected_ = 0;  // arrivals up to the last one
};

}  // namespace strata::load
