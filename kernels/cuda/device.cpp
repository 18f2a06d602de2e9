#include "kernels/cuda/device.h"

#include "absl/strings/str_cat.h"

namespace strata::kernels::cuda {

absl::StatusOr<DeviceInfo> OpenDevice() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    (void)cudaGetLastError();  // clears the error that is returned here
    return absl::FailedPreconditionError(absl::StrCat(
        "device cuda: ", error == cudaSuccess ? "no device" : cudaGetErrorString(error),
        error == cudaErrorInsufficientDriver ? "; CUDA 13 needs NVIDIA's driver 580 or later"
                                             : ""));
  }
  cudaDeviceProp properties = {};
  cudaError_t opened = cudaSetDevice(0);
  if (opened == cudaSuccess) opened = cudaGetDeviceProperties(&properties, 0);
  if (opened != cudaSuccess) {
    return absl::FailedPreconditionError(absl::StrCat("device cuda: ", cudaGetErrorString(opened)));
  }
  if (properties.major < 8) {
    return absl::FailedPreconditionError(absl::StrCat("device cuda: ", properties.name,
                                                      " has compute capability ", properties.major,
                                                      ".", properties.minor, ", 8.0 is the least"));
  }
  return DeviceInfo{properties.name, properties.major, properties.minor,
                    properties.multiProcessorCount,
                    static_cast<size_t>(properties.persistingL2CacheMaxSize)};
}

absl::Status StatusOf(const Stream& stream) {
  if (stream.ok()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("device cuda: ", cudaGetErrorString(stream.error()), " (", stream.what(), ")"));
}

absl::StatusOr<std::byte*> ReserveOrExplain(DeviceArray<std::byte>& memory, Stream& stream,
                                            size_t bytes, const char* what) {
  if (absl::Status status = StatusOf(stream); !status.ok()) return status;
  size_t available = 0;
  size_t total = 0;
  stream.Check(cudaMemGetInfo(&available, &total), "asking for free memory");
  if (bytes <= available) {
    std::byte* const data = memory.TryReserve(bytes);
    if (data != nullptr) return data;
  }
  if (absl::Status status = StatusOf(stream); !status.ok()) return status;
  return absl::ResourceExhaustedError(absl::StrCat("device cuda: ", bytes, " bytes for ", what,
                                                   ", of ", available, " that are free and ", total,
                                                   " that there are"));
}

}  // namespace strata::kernels::cuda
