#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace strata::kernels {

// Whether this machine has NVIDIA's driver, or the program the module: worth trying, and worth
// saying why it failed.
bool MayHaveCuda();

// A CUDA backend out of libstrata_cuda.so, which stands beside the program and is loaded at the
// first call. FAILED_PRECONDITION, one line, where the module, the driver or a device that it can
// use is missing.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

}  // namespace strata::kernels
