#include "tests/load/arrivals.h"

#include <cmath>
#include <random>

namespace strata::load {

Time Arrivals::Next() {
  const double burstiness = options_.burstiness;
  expected_ += std::isinf(burstiness)
                   ? 1
                   : std::gamma_distribution<double>(burstiness, 1 / burstiness)(random_);
  return At(expected_);
}

// The moment at which `expected` arrivals are expected: the integral of the rate, inverted.
Time Arrivals::At(double expected) const {
  const double from = options_.rate;
  if (std::isinf(from)) return Time(0);
  const double to = options_.end_rate.value_or(from);
  const double ramp = Seconds(options_.ramp);
  if (to == from || ramp == 0) return FromSeconds(expected / to);
  const double growth = std::log(to / from);
  const double in_ramp =
      options_.exponential ? ramp * (to - from) / growth : ramp * (from + to) / 2;
  if (expected >= in_ramp) return FromSeconds(ramp + (expected - in_ramp) / to);
  if (options_.exponential) {
    return FromSeconds(ramp / growth * std::log1p(expected * growth / (ramp * from)));
  }
  const double slope = (to - from) / ramp;
  return FromSeconds(2 * expected / (from + std::sqrt(from * from + 2 * slope * expected)));
}

}  // namespace strata::load
