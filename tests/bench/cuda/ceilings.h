#pragma once

#include <cstddef>
#include <cstdint>

// Peak rates of a CUDA device without the server's code: copies of CUDA's runtime and products of
// cuBLASLt alone, on random numbers. Host code without other dependencies. It is part of the probe
// and of libstrata_cuda_ceilings.so; benches load the library only if there is a device, so that
// they also start without one.

struct StrataCudaCeilings {
  double copy_gbps = 0;    // 10^9 bytes a second, each byte read and written counted twice
  double bf16_gflops = 0;  // of a product of 8,192 x 8,192 x 8,192; 10^9 operations a second
  double f16_gflops = 0;
  double int8_gops = 0;
  double fp8_gflops = 0;  // 0: the device has no such product
};

extern "C" {
// Measures device 0. Takes twice `copy_bytes`, and 512 MiB, during the call. Ends the program with
// a line if the device fails.
void strata_cuda_ceilings(size_t copy_bytes, StrataCudaCeilings* ceilings);
}

namespace strata::testing {

// 10^9 bytes a second, reads and writes counted.
double CopyGbps(size_t bytes);

}  // namespace strata::testing
