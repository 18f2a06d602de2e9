#include "engine/model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model/config_keys.h"

namespace strata::engine {
namespace {

constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
constexpr int64_t kMaxPositions = int64_t{1} << 24;

// Keys that a scaling object may hold. Any other key belongs to a scaling that is not built, or to
// nested settings for each kind of layer.
constexpr std::array<std::string_view, 8> kKeys = {"type",
                                                   "rope_type",
                                                   "rope_theta",
                                                   "factor",
                                                   "low_freq_factor",
                                                   "high_freq_factor",
                                                   "original_max_position_embeddings",
                                                   "partial_rotary_factor"};

std::string ReadType(JsonReader& scaling) {
  const std::string type = scaling.String("rope_type", "");
  const std::string old_name = scaling.String("type", "");
  if (!type.empty() && !old_name.empty() && type != old_name) {
    scaling.Fail("rope_type", DescribeJson(type), " but type is ", DescribeJson(old_name));
  }
  return !type.empty() ? type : !old_name.empty() ? old_name : "default";
}

void ReadScaling(JsonReader& scaling, RopeSpec& rope) {
  const std::string type = ReadType(scaling);
  if (type == "linear" || type == "llama3") {
    rope.factor = scaling.Positive("factor", kMaxFactor);
    if (rope.factor < 1) scaling.FailExpected("factor", "a number of at least 1");
  } else if (type != "default") {
    scaling.FailNotBuilt(scaling.Has("rope_type") ? "rope_type" : "type");
  }
  if (type == "linear") rope.scaling = RopeSpec::Scaling::kLinear;
  if (type == "llama3") {
    rope.scaling = RopeSpec::Scaling::kLlama3;
    rope.low_freq_factor = scaling.Positive("low_freq_factor", kMaxFactor);
    rope.high_freq_factor = scaling.Positive("high_freq_factor", kMaxFactor);
    rope.original_max_positions =
        scaling.Integer("original_max_position_embeddings", 1, kMaxPositions);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.FailExpected("high_freq_factor", "a number above low_freq_factor, ",
                           rope.low_freq_factor);
    }
  }
  for (const auto& [key, value] : scaling.value().items()) {
    if (!value.is_null() && std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      scaling.FailNotBuilt(key);
    }
  }
}

// Low frequencies turn `factor` times slower, high ones as trained; frequencies between are
// blended.
double Llama3Frequency(const RopeSpec& rope, double frequency) {
  const double turns =
      static_cast<double>(rope.original_max_positions) * frequency / (2 * std::numbers::pi);
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double blend =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

double Frequency(const RopeSpec& rope, int32_t width, int32_t j) {
  const double frequency = std::pow(rope.theta, -2.0 * j / width);
  switch (rope.scaling) {
    case RopeSpec::Scaling::kNone:
      break;
    case RopeSpec::Scaling::kLinear:
      return frequency / rope.factor;
    case RopeSpec::Scaling::kLlama3:
      return Llama3Frequency(rope, frequency);
  }
  return frequency;
}

// transformers prefers the number outside the scaling, so the two must agree.
void CheckOriginalPositions(JsonReader& config, const RopeSpec& rope) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  if (rope.scaling != RopeSpec::Scaling::kLlama3 || !config.Has(kKey)) return;
  const int64_t outside = config.Integer(kKey, 1, kMaxPositions);
  if (outside == rope.original_max_positions) return;
  config.Fail(kKey, outside, " but ", rope.original_max_positions,
              " beside the other numbers of the scaling");
}

}  // namespace

RopeSpec ReadRope(JsonReader& config, int32_t head_dim) {
  RopeSpec rope;
  constexpr char kPart[] = "partial_rotary_factor";
  double part = config.Positive(kPart, /*max=*/1, /*fallback=*/1);
  rope.width = static_cast<int32_t>(head_dim * part);
  rope.theta = config.Positive("rope_theta", kMaxTheta, rope.theta);
  const bool has_parameters = config.Has("rope_parameters");
  const bool has_scaling = config.Has("rope_scaling");
  if (has_scaling && has_parameters &&
      config.Value("rope_scaling") != config.Value("rope_parameters")) {
    config.Fail("rope_scaling", "differs from rope_parameters, want one of them");
  }
  JsonReader scaling = config.Member(has_parameters ? "rope_parameters" : "rope_scaling");
  if (!scaling.Has("rope_theta")) {
    RefuseOtherNames(config, "rope_theta", {"rope_base", "rotary_base", "rotary_emb_base"});
  }
  if (!has_parameters && !has_scaling) return rope;
  if (!scaling.value().is_object()) {
    scaling.FailExpected("", "an object");
    return rope;
  }
  const double theta = scaling.Positive("rope_theta", kMaxTheta, rope.theta);
  if (config.Has("rope_theta") && theta != rope.theta) {
    scaling.Fail("rope_theta", theta, " but ", rope.theta, " outside it");
  }
  rope.theta = theta;
  ReadScaling(scaling, rope);
  part = scaling.Positive(kPart, /*max=*/1, part);
  rope.width = static_cast<int32_t>(head_dim * part);
  CheckOriginalPositions(config, rope);
  return rope;
}

std::vector<float> RopeTable(const RopeSpec& rope, int32_t width, int32_t begin, int32_t end) {
  const int32_t half = width / 2;
  std::vector<double> frequencies;
  for (int32_t j = 0; j < half; ++j) frequencies.push_back(Frequency(rope, width, j));

  std::vector<float> table;
  table.reserve(static_cast<size_t>(end - begin) * static_cast<size_t>(width));
  for (int32_t position = begin; position < end; ++position) {
    for (const double frequency : frequencies) {
      table.push_back(static_cast<float>(std::cos(position * frequency)));
    }
    for (const double frequency : frequencies) {
      table.push_back(static_cast<float>(std::sin(position * frequency)));
    }
  }
  return table;
}

}  // namespace strata::engine
