#pragma once

#include <functional>

#include "kernels/backend.h"
#include "tests/bench/ceilings.h"

namespace strata::testing {

// Seconds that one call of `operation` takes on the backend's device: the median of some runs, each
// of as many calls as fill a fiftieth of a second, waited for once.
double SecondsOf(kernels::Backend& backend, const std::function<void()>& operation);

// What a device can do at most, by its own backend: `read_gbps` is the bandwidth of a copy (each
// byte counts twice, read and written), `bf16_gflops` the rate of a large product. `bytes`: of the
// copy; `size`: of the matrix, in each direction.
Ceilings MeasureDeviceCeilings(kernels::Backend& backend, size_t bytes, int64_t size);

}  // namespace strata::testing
