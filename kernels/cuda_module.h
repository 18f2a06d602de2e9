#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace strata::kernels {

// Whether NVIDIA's driver or the module is there. A CUDA backend is then worth a try, and its
// failure worth a report.
bool MayHaveCuda();

// Creates a CUDA backend from libstrata_cuda.so, which is beside the program and is loaded at the
// first call. FAILED_PRECONDITION in one line if the module, the driver or a usable device is
// missing.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options);

}  // namespace strata::kernels
