#pragma once

// The instruction sets that the SIMD files are compiled for, and Highway's functions to query them.
// Include this instead of, and before, Highway's own header.
//
// Every sum of this backend is a chain of fused multiply-adds, so sets without them are left out,
// as are vectors whose length is unknown to the compiler. What remains of x86 is AVX2 and AVX-512;
// Highway's one-lane or emulated baseline is built too (vector-inl.h fuses in software there) but
// only tests run it. Elsewhere, NEON.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)

#include "hwy/targets.h"
