#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace strata::kernels::cuda {

// Properties of the device that runs everything: the first that CUDA sees.
struct DeviceInfo {
  std::string name;
  int major = 0;  // of the compute capability
  int minor = 0;
  int multiprocessors = 0;
  size_t kept_bytes = 0;  // most bytes that the second cache can be asked to keep
};

// FAILED_PRECONDITION in one line if there is no driver or device, or the device is older than 8.0.
absl::StatusOr<DeviceInfo> OpenDevice();

// OK, or INTERNAL with the call during which the device failed.
absl::Status StatusOf(const Stream& stream);

// Device memory, or RESOURCE_EXHAUSTED with the bytes asked for and the bytes there are. Running
// out of memory is no error of the device: the stream goes on.
absl::StatusOr<std::byte*> ReserveOrExplain(DeviceArray<std::byte>& memory, Stream& stream,
                                            size_t bytes, const char* what);

}  // namespace strata::kernels::cuda
