#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/base/json_reader.h"

namespace strata::engine {

// Rotation of queries and keys (RoPE): element j < width / 2 of a head turns with element
// j + width / 2, by position * theta^(-2j / width), scaled.
struct RopeSpec {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  int64_t original_max_positions = 8192;
  int32_t width = 0;         // elements of a head that turn, from the first
  bool interleaved = false;  // element 2j turns with element 2j + 1

  friend bool operator==(const RopeSpec&, const RopeSpec&) = default;
};

// Reads rope_theta and rope_scaling, or rope_parameters (the newer name, which holds rope_theta
// too), and partial_rotary_factor. Fails `config` if they contradict each other, or with
// UNIMPLEMENTED for a rope_type other than "default", "linear" and "llama3".
RopeSpec ReadRope(JsonReader& config, int32_t head_dim);

// The angles' cosines and sines of positions [begin, end), in float64 rounded once: [end - begin,
// width], each row cos[width / 2] then sin[width / 2], as Backend::PrepareAttention takes them.
std::vector<float> RopeTable(const RopeSpec& rope, int32_t width, int32_t begin, int32_t end);

}  // namespace strata::engine
