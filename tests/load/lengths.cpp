#include "tests/load/lengths.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace strata::load {

absl::StatusOr<Lengths> Lengths::Parse(const std::string& text) {
  static const struct {
    const char* name;
    Kind kind;
    size_t numbers;
  } kKinds[] = {{"uniform", Kind::kUniform, 2},
                {"normal", Kind::kNormal, 2},
                {"lognormal", Kind::kLogNormal, 2},
                {"exponential", Kind::kExponential, 1}};
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  std::vector<double> numbers;
  for (const std::string& part : parts) {
    double number = 0;
    if (absl::SimpleAtod(part, &number) && number >= 0 && number <= 1e6) numbers.push_back(number);
  }
  if (parts.size() == 1 && numbers.size() == 1 && numbers[0] >= 1) {
    return Lengths(Kind::kConstant, numbers[0], 0);
  }
  for (const auto& kind : kKinds) {
    if (parts[0] != kind.name || parts.size() != kind.numbers + 1) continue;
    if (numbers.size() != kind.numbers || numbers[0] < 1) break;
    if (kind.kind == Kind::kUniform && numbers[1] < numbers[0]) break;
    return Lengths(kind.kind, numbers[0], numbers.size() > 1 ? numbers[1] : 0);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", text,
                   "' is not a number of tokens from 1 on, uniform:FROM:TO, normal:MEAN:DEVIATION, "
                   "lognormal:MEDIAN:SIGMA or exponential:MEAN"));
}

int32_t Lengths::Draw(Random* random, int32_t max) const {
  double drawn = first_;
  switch (kind_) {
    case Kind::kConstant:
      break;
    case Kind::kUniform:
      drawn = std::floor(std::uniform_real_distribution<double>(first_, second_ + 1)(*random));
      break;
    case Kind::kNormal:
      drawn = first_ + second_ * std::normal_distribution<double>()(*random);
      break;
    case Kind::kLogNormal:
      drawn = first_ * std::exp(second_ * std::normal_distribution<double>()(*random));
      break;
    case Kind::kExponential:
      drawn = std::exponential_distribution<double>(1 / first_)(*random);
      break;
  }
  return static_cast<int32_t>(std::lround(std::clamp(drawn, 1.0, std::max<double>(1, max))));
}

}  // namespace strata::load
