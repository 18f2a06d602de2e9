#include "kernels/backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"

namespace strata::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "auto" || options.device == "cpu") {
    return CpuBackend::Create(options.threads, options.pin_threads);
  }
  if (options.device == "cuda") {
    return absl::FailedPreconditionError("device cuda: no CUDA backend in this build");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown device \"", options.device, "\": auto, cpu or cuda"));
}

}  // namespace strata::kernels
