#pragma once

#include <string_view>

namespace strata::testing {

// What the machine can do while nothing else is asked of it.
struct Ceilings {
  double read_gbps = 0;      // a sum over 512 MiB, in 10^9 bytes a second
  double matrix_gflops = 0;  // f32 multiply-adds from registers, in 10^9 operations a second
  // The same of bf16 by AVX-512's dot products, 0 where there are none, and of bytes by those or,
  // on x86 without, by products of 16 bits summed in pairs.
  double bf16_gflops = 0;
  double int8_gops = 0;
  double f16_gflops = 0;  // of a device that has them
  double fp8_gflops = 0;

  // Of products whose weights are kept so; where there is none of its own, the f32 rate.
  double RateOf(std::string_view dtype) const {
    const double own = dtype == "int8"   ? int8_gops
                       : dtype == "bf16" ? bf16_gflops
                       : dtype == "f16"  ? f16_gflops
                       : dtype == "fp8"  ? fp8_gflops
                                         : 0;
    return own > 0 ? own : matrix_gflops;
  }
};

// Measured now, on so many threads: medians of a few rounds, since what is to be compared with them
// meets the same neighbours.
Ceilings MeasureCeilings(int threads);
// What lies between two measurements.
Ceilings MeanOf(const Ceilings& a, const Ceilings& b);

}  // namespace strata::testing
