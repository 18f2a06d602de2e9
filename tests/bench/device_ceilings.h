#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/bench/ceilings.h"

namespace strata::testing {

// Seconds of one call of `operation` on the backend's device: the median of some runs, each of as
// many calls as fill a fiftieth of a second, with one wait at its end.
double SecondsOf(kernels::Backend& backend, const std::function<void()>& operation);

// From -1 to 1, the same in every run. Zeros would take less power, and so raise clocks.
std::vector<float> RandomFloats(int64_t count);

// Peak rates of a device. On CUDA without the backend's code (cuda/ceilings.h): the bandwidth of a
// copy of 2 GiB, each byte counted twice, read and written, and rates of cuBLASLt's products of
// 8,192 x 8,192 x 8,192. Elsewhere by the backend's own copy and product.
Ceilings MeasureDeviceCeilings(kernels::Backend& backend, const std::string& device);

}  // namespace strata::testing
