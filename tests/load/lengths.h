#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tests/load/random.h"

namespace strata::load {

// Distribution of the number of tokens of a prompt or an answer. Pure but for the generator.
class Lengths {
 public:
  // "128", "uniform:64:256" (both ends included), "normal:MEAN:DEVIATION", "lognormal:MEDIAN:SIGMA"
  // (of the logarithm), "exponential:MEAN". INVALID_ARGUMENT naming the text.
  static absl::StatusOr<Lengths> Parse(const std::string& text);

  static Lengths Constant(int32_t tokens) { return Lengths(Kind::kConstant, tokens, 0); }

  // At least 1, at most `max`: draws outside are cut to these.
  int32_t Draw(Random* random, int32_t max) const;

 private:
  enum class Kind { kConstant, kUniform, kNormal, kLogNormal, kExponential };
  Lengths(Kind kind, double first, double second) : kind_(kind), first_(first), second_(second) {}

  Kind kind_;
  double first_;
  double second_;
};

}  // namespace strata::load
