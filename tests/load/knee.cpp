#include "tests/load/knee.h"

#include <algorithm>
#include <cmath>

namespace strata::load {

std::optional<double> KneeSearch::Next() const {
  double next = limits_.first;
  if (sustained_ && too_much_) {
    if (*too_much_ / *sustained_ <= limits_.precision) return std::nullopt;
    next = std::sqrt(*sustained_ * *too_much_);
  } else if (sustained_) {
    next = *sustained_ * 2;
  } else if (too_much_) {
    next = *too_much_ / 2;
  }
  if (next < limits_.lowest || next > limits_.highest) return std::nullopt;
  return next;
}

void KneeSearch::Report(double rate, bool sustained) {
  if (sustained) {
    sustained_ = std::max(rate, sustained_.value_or(rate));
  } else {
    too_much_ = std::min(rate, too_much_.value_or(rate));
  }
}

}  // namespace strata::load
