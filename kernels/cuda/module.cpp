// The one function that libstrata_cuda.so exports (kernels/cuda_module.h).

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

extern "C" __attribute__((visibility("default"))) void strata_create_cuda_backend(
    const strata::kernels::BackendOptions* options,
    std::unique_ptr<strata::kernels::Backend>* backend, absl::Status* status) {
  auto made = strata::kernels::cuda::CudaBackend::Create(*options);
  *status = made.status();
  if (made.ok()) *backend = *std::move(made);
}
