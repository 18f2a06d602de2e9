#include "kernels/backend.h"

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda_module.h"

namespace strata::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cuda") return CreateCudaBackend(options);
  std::string why_not_cuda;
  if (options.device == "auto" && MayHaveCuda()) {
    // An unusable device counts as absent. Any other failure is returned.
    auto cuda = CreateCudaBackend(options);
    if (!absl::IsFailedPrecondition(cuda.status())) return cuda;
    why_not_cuda = std::string(cuda.status().message());
  }
  if (options.device == "auto" || options.device == "cpu") {
    return CpuBackend::Create(options.threads, options.pin_threads, std::move(why_not_cuda));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown device \"", options.device, "\": auto, cpu or cuda"));
}

}  // namespace strata::kernels
