#pragma once

namespace strata::testing {

// What the machine can do at most, measured now on `threads` threads.
struct Ceilings {
  double read_gbps = 0;      // a sum over 512 MiB, in 10^9 bytes a second
  double matrix_gflops = 0;  // f32 multiply-adds from registers, in 10^9 operations a second
  // The same of bf16 and of bytes, by AVX-512's dot products; 0 where there are none.
  double bf16_gflops = 0;
  double int8_gops = 0;
};

Ceilings MeasureCeilings(int threads);

}  // namespace strata::testing
