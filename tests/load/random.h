#pragma once

#include <cstdint>
#include <limits>

namespace strata::load {

// SplitMix64 (Steele, Lea and Flood, 2014): eight bytes of state, so that every talk and every
// block of a trace has its own numbers, the same in each run of the same seed.
class Random {
 public:
  using result_type = uint64_t;

  explicit Random(uint64_t seed) : state_(seed) {}
  // The generator of item `number`: equal numbers give equal generators.
  Random(uint64_t seed, uint64_t number) : state_(seed) { state_ = (*this)() ^ number; }

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return std::numeric_limits<uint64_t>::max(); }
  uint64_t operator()() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  uint64_t state_;
};

}  // namespace strata::load
