#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/cuda/step_graphs.h"

namespace strata::kernels::cuda {

// A kernel's launch, arguments and all.
template <class... Parameters>
class KernelLaunch final : public Work {
 public:
  template <class... Arguments>
  KernelLaunch(const char* what, dim3 grid, dim3 block, size_t shared_bytes,
               void (*kernel)(Parameters...), Arguments&&... arguments)
      : Work(what),
        grid_(grid),
        block_(block),
        shared_bytes_(shared_bytes),
        kernel_(kernel),
        arguments_(std::forward<Arguments>(arguments)...) {}

  cudaError_t Run(cudaStream_t stream) const override {
    cudaLaunchConfig_t config{};
    config.gridDim = grid_;
    config.blockDim = block_;
    config.dynamicSmemBytes = shared_bytes_;
    config.stream = stream;
    return std::apply(
        [&](const auto&... arguments) {
          return cudaLaunchKernelEx(&config, kernel_, arguments...);
        },
        arguments_);
  }
  bool Same(const Work& other) const override {
    const auto* const launch = dynamic_cast<const KernelLaunch*>(&other);
    return launch != nullptr && kernel_ == launch->kernel_ && Same(grid_, launch->grid_) &&
           Same(block_, launch->block_) && shared_bytes_ == launch->shared_bytes_ &&
           arguments_ == launch->arguments_;
  }

 private:
  static bool Same(dim3 a, dim3 b) { return a.x == b.x && a.y == b.y && a.z == b.z; }

  const dim3 grid_;
  const dim3 block_;
  const size_t shared_bytes_;
  void (*const kernel_)(Parameters...);
  const std::tuple<Parameters...> arguments_;
};

// The stream that all work goes into, in order, and the first error that a call gave. Nothing is
// launched after an error: the state of the device is unreliable.
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
  const char* what() const { return what_; }  // the call that gave the error

  // Holds work back from here to EndStep or the next Wait, except before a copy or a free, which
  // flush it. If `repeats`, a list of work that came before, item for item, goes to the device as
  // one graph (StepGraphs).
  void BeginStep(bool repeats) {
    Flush();
    holding_ = true;
    repeats_ = repeats;
  }
  void EndStep() {
    Flush();
    holding_ = false;
  }
  bool holding() const { return holding_; }
  void Wait() {
    EndStep();
    if (ok()) Check(cudaStreamSynchronize(handle_), "waiting for the device");
  }
  // Records `event` once, before the next work that goes to the device.
  void set_begin(cudaEvent_t event) { begin_ = event; }
  // Called before work goes to the device: puts copies of the work's inputs into the stream.
  void set_before_work(std::function<void()> hook) { before_work_ = std::move(hook); }
  void Copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    Flush();
    if (ok() && bytes > 0) Check(cudaMemcpyAsync(to, from, bytes, kind, handle_), "a copy");
  }
  // Hands over the work held back.
  void Flush() {
    if (held_.empty()) return;
    if (before_work_) before_work_();
    if (begin_ != nullptr)
      Check(cudaEventRecord(std::exchange(begin_, nullptr), handle_), "timing");
    if (ok()) {
      const WorkResult result = graphs_.Run(handle_, repeats_, &held_);
      Check(result.error, result.what);
    }
    held_.clear();
  }

  // kernel<<<grid, block, shared_bytes>>>(arguments...)
  template <class... Parameters, class... Arguments>
  void Launch(const char* what, dim3 grid, dim3 block, size_t shared_bytes,
              void (*kernel)(Parameters...), Arguments&&... arguments) {
    Put(KernelLaunch<Parameters...>(what, grid, block, shared_bytes, kernel,
                                    std::forward<Arguments>(arguments)...));
  }
  template <class SomeWork>
  void Put(SomeWork work) {
    if (!ok()) return;
    if (holding_) {
      held_.push_back(std::make_unique<SomeWork>(std::move(work)));
      return;
    }
    if (before_work_) before_work_();
    if (ok()) Check(work.Run(handle_), work.what());
  }

 private:
  cudaStream_t handle_ = nullptr;
  bool holding_ = false;
  bool repeats_ = false;
  cudaEvent_t begin_ = nullptr;
  std::function<void()> before_work_;
  std::vector<std::unique_ptr<Work>> held_;
  StepGraphs graphs_;
  cudaError_t error_ = cudaSuccess;
  const char* what_ = "";
};

// A mark in a stream, once it has been opened.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() {
    if (handle_ != nullptr) cudaEventDestroy(handle_);
  }

  void Open(Stream& stream, unsigned flags = cudaEventDisableTiming) {
    stream.Check(cudaEventCreateWithFlags(&handle_, flags), "making an event");
  }
  cudaEvent_t handle() const { return handle_; }

 private:
  cudaEvent_t handle_ = nullptr;
};

// Lets a kernel have more shared memory than the default 48 KiB. Called once for each kernel,
// before its first launch.
template <class... Parameters>
bool AllowShared(Stream& stream, void (*kernel)(Parameters...), size_t bytes) {
  stream.Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)),
               "asking for shared memory");
  return true;
}

}  // namespace strata::kernels::cuda
