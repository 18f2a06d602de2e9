#pragma once

#include <string_view>

namespace strata::testing {

// Peak rates of an otherwise idle machine.
struct Ceilings {
  double read_gbps = 0;      // a sum over 512 MiB, in 10^9 bytes a second
  double matrix_gflops = 0;  // f32 multiply-adds from registers, in 10^9 operations a second
  // Rates of AVX-512's dot products: of bf16, 0 without them, and of bytes; on x86 without them of
  // products of 16 bits summed in pairs.
  double bf16_gflops = 0;
  double int8_gops = 0;
  double f16_gflops = 0;  // of a device with f16 products
  double fp8_gflops = 0;

  // Rate of products with weights of this dtype; the f32 rate if the dtype has no rate of its own.
  double RateOf(std::string_view dtype) const {
    const double own = dtype == "int8"   ? int8_gops
                       : dtype == "bf16" ? bf16_gflops
                       : dtype == "f16"  ? f16_gflops
                       : dtype == "fp8"  ? fp8_gflops
                                         : 0;
    return own > 0 ? own : matrix_gflops;
  }
};

// Measures now, on `threads` threads: medians of a few rounds, since the figures compared with them
// are measured beside the same neighbours.
Ceilings MeasureCeilings(int threads);
// The mean of two measurements.
Ceilings MeanOf(const Ceilings& a, const Ceilings& b);

}  // namespace strata::testing
