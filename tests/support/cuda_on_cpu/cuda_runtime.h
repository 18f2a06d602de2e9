// The part of CUDA's runtime that kernels/cuda uses, on the CPU: the same names, so that the same
// sources compile with g++. Kernels run on fibers (fibers.h). A stream holds its work until the
// host waits for it, so that reusing host memory too early, or reading results without waiting,
// shows in every run. Device memory is ordinary memory, full of 0xff at first.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "tests/support/cuda_on_cpu/fibers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define threadIdx (::cuda_on_cpu::Self().thread)
#define blockIdx (::cuda_on_cpu::CurrentBlock().index)

struct dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
  constexpr dim3(uint32_t x_ = 1, uint32_t y_ = 1, uint32_t z_ = 1)  // NOLINT: as in CUDA
      : x(x_), y(y_), z(z_) {}
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline uint32_t __float_as_uint(float value) { return std::bit_cast<uint32_t>(value); }
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

inline void __syncthreads() { cuda_on_cpu::MeetBlock(); }
inline void __syncwarp() { cuda_on_cpu::MeetWarp(nullptr, 0, "__syncwarp"); }
template <class T>
T __shfl_sync(unsigned, T value, int source) {
  using Words = std::array<uint32_t, sizeof(T) / sizeof(uint32_t)>;
  auto words = std::bit_cast<Words>(value);
  const auto& told =
      cuda_on_cpu::MeetWarp(words.data(), static_cast<int>(words.size()), "shuffle")[source & 31];
  std::copy_n(told, words.size(), words.begin());
  return std::bit_cast<T>(words);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  return __shfl_sync(mask, value, cuda_on_cpu::Self().lane ^ lane_mask);
}

// Not atomic: fibers give up their turn only at meetings.
template <class T>
T atomicAdd(T* place, T value) {
  return std::exchange(*place, *place + value);
}
template <class T>
T atomicMin(T* place, T value) {
  return std::exchange(*place, min(*place, value));
}

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalAddress = 700,
  cudaErrorUnknown = 999,
};
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
  size_t sharedMemPerBlockOptin;
  size_t totalGlobalMem;
  int persistingL2CacheMaxSize;
};
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaMemGetInfo(size_t* available, size_t* total);

template <class T>
cudaError_t cudaMalloc(T** memory, size_t bytes);
template <class T>
cudaError_t cudaMallocHost(T** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaFreeHost(void* memory);

struct StreamOnCpu;
struct EventOnCpu;
using cudaStream_t = StreamOnCpu*;
using cudaEvent_t = EventOnCpu*;
constexpr unsigned cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0;
constexpr unsigned cudaEventDisableTiming = 2;
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
// A millisecond for each piece of work between the events.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

struct GraphOnCpu;
using cudaGraph_t = GraphOnCpu*;
using cudaGraphExec_t = GraphOnCpu*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph,
                                 unsigned long long flags);  // NOLINT: CUDA's
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);

enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

namespace cuda_on_cpu {
cudaError_t AllocateDevice(void** memory, size_t bytes);
cudaError_t AllocateHost(void** memory, size_t bytes);
cudaError_t AllowShared(const void* kernel, size_t bytes);
cudaError_t CheckLaunch(const cudaLaunchConfig_t& config, const void* kernel);
void Enqueue(cudaStream_t stream, std::function<void()> work);
void CountHinted(bool kept, int64_t bytes);
// Ends the program, with a line, if an instruction would have faulted on a device. The compiler
// checks loads and stores written in C++ (cuda.cmake, -fsanitize=alignment).
void RequireAligned(const void* address, size_t bytes, const char* instruction);
}  // namespace cuda_on_cpu

template <class T>
cudaError_t cudaMalloc(T** memory, size_t bytes) {
  return cuda_on_cpu::AllocateDevice(reinterpret_cast<void**>(memory), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** memory, size_t bytes) {
  return cuda_on_cpu::AllocateHost(reinterpret_cast<void**>(memory), bytes);
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return cuda_on_cpu::AllowShared(reinterpret_cast<const void*>(kernel),
                                  static_cast<size_t>(value));
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const cudaError_t error =
      cuda_on_cpu::CheckLaunch(*config, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) return error;
  // As on a device, arguments are copied at the launch, not at the run.
  cuda_on_cpu::Enqueue(
      config->stream, [config = *config, kernel,
                       values = std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)] {
        const auto index = [](dim3 d) { return cuda_on_cpu::Index{d.x, d.y, d.z}; };
        cuda_on_cpu::RunGrid(index(config.gridDim), index(config.blockDim), config.dynamicSmemBytes,
                             [&] { std::apply(kernel, values); });
      });
  return cudaSuccess;
}
