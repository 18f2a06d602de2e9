#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"

// Captured work, put into a stream at each launch.
struct GraphOnCpu {
  std::vector<std::function<void()>> work;
};

struct StreamOnCpu {
  std::deque<std::function<void()>> work;
  GraphOnCpu* capture = nullptr;  // takes the work in place of the stream
  uint64_t done = 0;              // pieces of work that have run

  uint64_t end() const { return done + work.size(); }
  void RunTo(uint64_t place) {
    while (done < place && !work.empty()) {
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      next();
      ++done;
    }
  }
};

struct EventOnCpu {
  StreamOnCpu* stream = nullptr;
  uint64_t place = 0;
};

namespace cuda_on_cpu {
namespace {

constexpr size_t kSharedBytes = size_t{227} << 10;   // most that a kernel can be allowed
constexpr size_t kSharedUnasked = size_t{48} << 10;  // allowed to every kernel

struct Device {
  cudaError_t fault = cudaSuccess;
  cudaError_t last = cudaSuccess;
  int count = 1;
  int major = 9;
  int minor = 0;
  size_t total_bytes = size_t{2} << 30;
  int64_t allocations = 0;
  int64_t launches = 0;
  int64_t graph_launches = 0;
  int64_t graphs_made = 0;
  int64_t copies_in = 0;
  int64_t copies_out = 0;
  int64_t kept_bytes = 0;
  int64_t passed_bytes = 0;
  int kept_cache = 1 << 20;
  size_t bytes = 0;
  std::map<const std::byte*, size_t> memory;  // of the device, by address
  std::map<const std::byte*, size_t> pinned;
  std::map<const void*, size_t> shared;  // allowed, by kernel
  std::vector<StreamOnCpu*> streams;
};
Device& TheDevice() {
  static Device device;
  return device;
}

cudaError_t Result(cudaError_t error = cudaSuccess) {
  Device& device = TheDevice();
  if (device.fault != cudaSuccess) error = device.fault;
  if (error != cudaSuccess) device.last = error;
  return error;
}

// Whether [data, data + bytes) is inside one of the pieces.
bool Within(const std::map<const std::byte*, size_t>& pieces, const void* data, size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(data);
  auto after = pieces.upper_bound(begin);
  if (after == pieces.begin()) return false;
  --after;
  return begin + bytes <= after->first + after->second;
}
void RequireDevice(const void* data, size_t bytes, const char* what) {
  if (bytes == 0 || Within(TheDevice().memory, data, bytes)) return;
  std::fprintf(stderr, "cuda_on_cpu: %s: not within device memory\n", what);
  std::abort();
}

cudaError_t Allocate(void** memory, size_t bytes, std::map<const std::byte*, size_t>* pieces) {
  ++TheDevice().allocations;
  if (posix_memalign(memory, 256, bytes) != 0) return Result(cudaErrorMemoryAllocation);
  std::memset(*memory, 0xff, bytes);
  pieces->emplace(static_cast<const std::byte*>(*memory), bytes);
  return Result();
}

void Drain() {
  for (StreamOnCpu* stream : TheDevice().streams) stream->RunTo(stream->end());
}

}  // namespace

void SetFault(cudaError_t error) { TheDevice().fault = error; }
void SetDevices(int count, int major, int minor) {
  TheDevice().count = count;
  TheDevice().major = major;
  TheDevice().minor = minor;
}
void SetMemory(size_t bytes) { TheDevice().total_bytes = bytes; }
int64_t Allocations() { return TheDevice().allocations; }
int64_t Launches() { return TheDevice().launches; }
int64_t GraphLaunches() { return TheDevice().graph_launches; }
int64_t GraphsMade() { return TheDevice().graphs_made; }
int64_t CopiesIn() { return TheDevice().copies_in; }
int64_t CopiesOut() { return TheDevice().copies_out; }
int64_t KeptBytes() { return TheDevice().kept_bytes; }
int64_t PassedBytes() { return TheDevice().passed_bytes; }
void SetKeptCache(int bytes) { TheDevice().kept_cache = bytes; }
void CountHinted(bool kept, int64_t bytes) {
  (kept ? TheDevice().kept_bytes : TheDevice().passed_bytes) += bytes;
}
size_t BytesInUse() { return TheDevice().bytes; }

void RequireAligned(const void* address, size_t bytes, const char* instruction) {
  if (reinterpret_cast<uintptr_t>(address) % bytes == 0) return;
  std::fprintf(stderr, "cuda_on_cpu: %s: address not aligned to %zu bytes\n", instruction, bytes);
  std::abort();
}

cudaError_t AllocateDevice(void** memory, size_t bytes) {
  Device& device = TheDevice();
  if (bytes > device.total_bytes - device.bytes) return Result(cudaErrorMemoryAllocation);
  const cudaError_t error = Allocate(memory, bytes, &device.memory);
  if (error == cudaSuccess) device.bytes += bytes;
  return error;
}
cudaError_t AllocateHost(void** memory, size_t bytes) {
  return Allocate(memory, bytes, &TheDevice().pinned);
}

cudaError_t AllowShared(const void* kernel, size_t bytes) {
  if (bytes > kSharedBytes) return Result(cudaErrorInvalidValue);
  TheDevice().shared[kernel] = bytes;
  return Result();
}
cudaError_t CheckLaunch(const cudaLaunchConfig_t& config, const void* kernel) {
  const auto allowed = TheDevice().shared.find(kernel);
  const size_t most = allowed == TheDevice().shared.end()
                          ? kSharedUnasked
                          : std::max(allowed->second, kSharedUnasked);
  const dim3& grid = config.gridDim;
  const bool fits = config.dynamicSmemBytes <= most && grid.x > 0 && grid.y > 0 && grid.z > 0 &&
                    grid.y <= 65535 && grid.z <= 65535;
  ++TheDevice().launches;
  return Result(fits ? cudaSuccess : cudaErrorInvalidValue);
}
void Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream->capture != nullptr) {
    stream->capture->work.push_back(std::move(work));
  } else {
    stream->work.push_back(std::move(work));
  }
}

}  // namespace cuda_on_cpu

using cuda_on_cpu::RequireDevice;
using cuda_on_cpu::Result;
using cuda_on_cpu::TheDevice;

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorUnknown:
      return "unknown error";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
  }
  return "unknown error";
}
cudaError_t cudaGetLastError() {
  return TheDevice().fault != cudaSuccess ? TheDevice().fault
                                          : std::exchange(TheDevice().last, cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = TheDevice().count;
  return Result(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int) { return Result(); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {.name = "CUDA on CPU",
                 .major = TheDevice().major,
                 .minor = TheDevice().minor,
                 .multiProcessorCount = 4,
                 .sharedMemPerBlockOptin = cuda_on_cpu::kSharedBytes,
                 .totalGlobalMem = TheDevice().total_bytes,
                 .persistingL2CacheMaxSize = TheDevice().kept_cache};
  return Result();
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  *available = TheDevice().total_bytes - TheDevice().bytes;
  *total = TheDevice().total_bytes;
  return Result();
}

// As on a device, frees memory after all work is done.
cudaError_t cudaFree(void* memory) {
  cuda_on_cpu::Drain();
  const auto piece = TheDevice().memory.find(static_cast<const std::byte*>(memory));
  if (piece != TheDevice().memory.end()) {
    TheDevice().bytes -= piece->second;
    TheDevice().memory.erase(piece);
    std::free(memory);
  }
  return Result();
}
cudaError_t cudaFreeHost(void* memory) {
  cuda_on_cpu::Drain();
  if (TheDevice().pinned.erase(static_cast<const std::byte*>(memory)) > 0) std::free(memory);
  return Result();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new StreamOnCpu;
  TheDevice().streams.push_back(*stream);
  return Result();
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->RunTo(stream->end());
  std::erase(TheDevice().streams, stream);
  delete stream;
  return Result();
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->capture != nullptr) return Result(cudaErrorInvalidValue);
  stream->RunTo(stream->end());
  return Result();
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EventOnCpu;
  return Result();
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return Result();
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->place = stream->end();
  return Result();
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) event->stream->RunTo(event->place);
  return Result();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (begin->stream == nullptr || begin->stream != end->stream || end->place > end->stream->done) {
    return Result(cudaErrorInvalidValue);
  }
  *milliseconds = static_cast<float>(end->place - begin->place);
  return Result();
}

// Only launches can be captured here: waiting and copying are refused.
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture != nullptr) return Result(cudaErrorInvalidValue);
  stream->capture = new GraphOnCpu;
  return Result();
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = std::exchange(stream->capture, nullptr);
  return Result(*graph == nullptr ? cudaErrorInvalidValue : cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  ++TheDevice().graphs_made;
  *made = new GraphOnCpu(*graph);
  return Result();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return Result();
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  cuda_on_cpu::Drain();
  delete graph;
  return Result();
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  ++TheDevice().graph_launches;
  for (const auto& work : graph->work) stream->work.push_back(work);
  return Result();
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width == 0 || height == 0) return Result();
  if (stream->capture != nullptr) return Result(cudaErrorInvalidValue);
  if (kind == cudaMemcpyHostToDevice) ++TheDevice().copies_in;
  if (kind == cudaMemcpyDeviceToHost) ++TheDevice().copies_out;
  const size_t to_bytes = (height - 1) * to_pitch + width;
  const size_t from_bytes = (height - 1) * from_pitch + width;
  if (kind != cudaMemcpyDeviceToHost) RequireDevice(to, to_bytes, "copy to");
  if (kind != cudaMemcpyHostToDevice) RequireDevice(from, from_bytes, "copy from");
  const auto copy = [to, to_pitch, from_pitch, width, height](const void* source) {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                  static_cast<const std::byte*>(source) + row * from_pitch, width);
    }
  };
  const void* host = kind == cudaMemcpyHostToDevice ? from : to;
  const size_t host_bytes = kind == cudaMemcpyHostToDevice ? from_bytes : to_bytes;
  const bool pageable = kind != cudaMemcpyDeviceToDevice &&
                        !cuda_on_cpu::Within(TheDevice().pinned, host, host_bytes);
  if (!pageable) {
    stream->work.emplace_back([copy, from] { copy(from); });
  } else if (kind == cudaMemcpyHostToDevice) {
    const auto* bytes = static_cast<const std::byte*>(from);
    stream->work.emplace_back([copy, staged = std::vector<std::byte>(bytes, bytes + from_bytes)] {
      copy(staged.data());
    });
  } else {
    stream->RunTo(stream->end());
    copy(from);
  }
  return Result();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  RequireDevice(memory, bytes, "memset");
  stream->work.emplace_back([memory, value, bytes] { std::memset(memory, value, bytes); });
  return Result();
}
