#pragma once

namespace strata::testing {

// What the machine can do at most, measured now on `threads` threads.
struct Ceilings {
  double read_gbps = 0;      // a sum over 512 MiB, in 10^9 bytes a second
  double matrix_gflops = 0;  // f32 multiply-adds from registers, in 10^9 operations a second
  double int8_gops = 0;      // the same of bytes, by AVX-512's dot product; 0 where there is none
};

Ceilings MeasureCeilings(int threads);

}  // namespace strata::testing
