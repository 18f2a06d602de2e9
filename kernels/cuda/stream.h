#pragma once

#include <cstddef>
#include <utility>

#include "cuda_runtime.h"

namespace strata::kernels::cuda {

// The stream that all work goes into, in order, and the first error that a call gave. After one
// nothing more is launched: the device's state is not to be trusted.
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (handle_ != nullptr) cudaStreamDestroy(handle_);
  }

  void Open() {
    Check(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "making a stream");
  }
  cudaStream_t handle() const { return handle_; }

  void Check(cudaError_t error, const char* what) {
    if (error == cudaSuccess || error_ != cudaSuccess) return;
    error_ = error;
    what_ = what;
  }
  bool ok() const { return error_ == cudaSuccess; }
  cudaError_t error() const { return error_; }
  const char* what() const { return what_; }  // was being done when the error came

  void Wait() {
    if (ok()) Check(cudaStreamSynchronize(handle_), "waiting for the device");
  }
  void Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    if (ok() && bytes > 0) Check(cudaMemcpyAsync(to, from, bytes, kind, handle_), "a copy");
  }

  // kernel<<<grid, block, shared_bytes>>>(arguments...)
  template <class... Parameters, class... Arguments>
  void Launch(const char* what, dim3 grid, dim3 block, size_t shared_bytes,
              void (*kernel)(Parameters...), Arguments&&... arguments) {
    if (!ok()) return;
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = handle_;
    Check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), what);
  }

 private:
  cudaStream_t handle_ = nullptr;
  cudaError_t error_ = cudaSuccess;
  const char* what_ = "";
};

// Lets a kernel have more shared memory than the 48 KiB that every kernel may have. Once for each
// kernel, before its first launch.
template <class... Parameters>
bool AllowShared(Stream& stream, void (*kernel)(Parameters...), size_t bytes) {
  stream.Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)),
               "asking for shared memory");
  return true;
}

}  // namespace strata::kernels::cuda
