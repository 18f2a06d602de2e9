#include "engine/model/rope.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/json_file.h"

namespace strata::engine {
namespace {

using Json = nlohmann::json;

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

std::string ReadType(ConfigReader& scaling) {
  const std::string type = scaling.String("rope_type");
  const std::string old_name = scaling.String("type");
  if (!type.empty() && !old_name.empty() && type != old_name) {
    scaling.Refuse("rope_type = ", Printable(type), " but type = ", Printable(old_name));
  }
  return !type.empty() ? type : !old_name.empty() ? old_name : "default";
}

void ReadScaling(ConfigReader& scaling, const Json& object, RopeConfig& rope) {
  const std::string type = ReadType(scaling);
  if (type == "linear" || type == "llama3") {
    rope.factor = scaling.RequiredPositive("factor", kMaxFactor);
    if (rope.factor < 1) scaling.Refuse("factor = ", rope.factor, ", want at least 1");
  } else if (type != "default") {
    scaling.NotBuilt("rope_type = ", Printable(type), " is not built");
  }
  if (type == "linear") rope.scaling = RopeConfig::Scaling::kLinear;
  if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::kLlama3;
    rope.low_freq_factor = scaling.RequiredPositive("low_freq_factor", kMaxFactor);
    rope.high_freq_factor = scaling.RequiredPositive("high_freq_factor", kMaxFactor);
    rope.original_max_positions =
        scaling.RequiredInt("original_max_position_embeddings", {.min = 1, .max = kMaxPositions});
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      scaling.Refuse("high_freq_factor = ", rope.high_freq_factor,
                     ", want above low_freq_factor = ", rope.low_freq_factor);
    }
  }
  if (scaling.Positive("partial_rotary_factor", 1, 1) != 1) {
    scaling.NotBuilt("partial_rotary_factor below 1 is not built");
  }
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null() && std::find(kKeys.begin(), kKeys.end(), key) == kKeys.end()) {
      scaling.NotBuilt(Printable(key), " = ", PrintableJson(value), " is not built");
    }
  }
}

// Low frequencies turn `factor` times slower, high ones as trained; frequencies between are
// blended.
double Llama3Frequency(const RopeConfig& rope, double frequency) {
  const double turns =
      static_cast<double>(rope.original_max_positions) * frequency / (2 * std::numbers::pi);
  if (turns < rope.low_freq_factor) return frequency / rope.factor;
  if (turns > rope.high_freq_factor) return frequency;
  const double blend =
      (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - blend) * frequency / rope.factor + blend * frequency;
}

double Frequency(const RopeConfig& rope, int32_t head_dim, int32_t j) {
  const double frequency = std::pow(rope.theta, -2.0 * j / head_dim);
  switch (rope.scaling) {
    case RopeConfig::Scaling::kNone:
      break;
    case RopeConfig::Scaling::kLinear:
      return frequency / rope.factor;
    case RopeConfig::Scaling::kLlama3:
      return Llama3Frequency(rope, frequency);
  }
  return frequency;
}

// transformers prefers the number outside the scaling, so the two must agree.
void CheckOriginalPositions(ConfigReader& config, const RopeConfig& rope) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  if (rope.scaling != RopeConfig::Scaling::kLlama3 || !config.Has(kKey)) return;
  const int64_t outside = config.RequiredInt(kKey, {.min = 1, .max = kMaxPositions});
  if (outside == rope.original_max_positions) return;
  config.Refuse(kKey, " = ", outside, " but ", rope.original_max_positions,
                " beside the other numbers of the scaling");
}

}  // namespace

RopeConfig ReadRope(ConfigReader& config) {
  RopeConfig rope;
  rope.theta = config.Positive("rope_theta", rope.theta, kMaxTheta);
  const Json* scaling = config.Get("rope_scaling");
  const Json* parameters = config.Get("rope_parameters");
  if (scaling != nullptr && parameters != nullptr && *scaling != *parameters) {
    config.Refuse("rope_scaling and rope_parameters differ, want one of them");
  }
  const Json* object = parameters != nullptr ? parameters : scaling;
  const bool has_theta =
      config.Has("rope_theta") ||
      (object != nullptr && object->is_object() && !object->value("rope_theta", Json()).is_null());
  if (!has_theta) {
    config.RefuseOtherNames("rope_theta", {"rope_base", "rotary_base", "rotary_emb_base"});
  }
  if (object == nullptr) return rope;
  const std::string key = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  if (!object->is_object()) {
    config.Refuse(key, " = ", PrintableJson(*object), ", want an object");
    return rope;
  }
  ConfigReader reader(config.name() + ": " + key, *object);
  const double theta = reader.Positive("rope_theta", rope.theta, kMaxTheta);
  if (config.Has("rope_theta") && theta != rope.theta) {
    reader.Refuse("rope_theta = ", theta, " but ", rope.theta, " outside it");
  }
  rope.theta = theta;
  ReadScaling(reader, *object, rope);
  config.Fail(reader.status());
  CheckOriginalPositions(config, rope);
  return rope;
}

std::vector<float> RopeTable(const RopeConfig& rope, int32_t head_dim, int32_t begin, int32_t end) {
  const int32_t half = head_dim / 2;
  std::vector<double> frequencies;
  for (int32_t j = 0; j < half; ++j) frequencies.push_back(Frequency(rope, head_dim, j));

  std::vector<float> table;
  table.reserve(static_cast<size_t>(end - begin) * static_cast<size_t>(head_dim));
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
