#pragma once

#include <cstddef>
#include <cstdint>

// What a CUDA device can do at most, by none of the server's code: copies of CUDA's runtime and
// products of cuBLASLt alone, on random numbers. Host code without other dependencies: the probe
// has it, and libstrata_cuda_ceilings.so, which the benches load where there is a device, so that
// they start where there is none.

struct StrataCudaCeilings {
  double copy_gbps = 0;    // 10^9 bytes a second, each byte read and written counted twice
  double bf16_gflops = 0;  // of a product of 8,192 x 8,192 x 8,192; 10^9 operations a second
  double f16_gflops = 0;
  double int8_gops = 0;
  double fp8_gflops = 0;  // 0: the device has no such product
};

extern "C" {
// Of device 0. Takes `copy_bytes` twice, and 512 MiB, for as long as it runs. Ends the program with
// a line where the device fails.
void strata_cuda_ceilings(size_t copy_bytes, StrataCudaCeilings* ceilings);
}

namespace strata::testing {

// 10^9 bytes a second, read and written.
double CopyGbps(size_t bytes);

}  // namespace strata::testing
