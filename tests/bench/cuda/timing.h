#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_runtime.h"

namespace strata::testing {

// Ends the program with a line on an error: a bench cannot recover.
inline void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// Device memory of `count` elements.
template <class T>
class Memory {
 public:
  explicit Memory(size_t count) {
    Require(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)), "allocating");
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { cudaFree(data_); }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

// Seconds of one call of `operation`, which puts work into the stream, by the device's clock: the
// median of five runs of `calls` calls each, after one call that is not counted.
template <class Operation>
double DeviceSeconds(cudaStream_t stream, int calls, Operation operation) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  Require(cudaEventCreate(&begin), "making an event");
  Require(cudaEventCreate(&end), "making an event");
  operation();
  std::vector<double> seconds;
  for (int run = 0; run < 5; ++run) {
    Require(cudaEventRecord(begin, stream), "timing");
    for (int i = 0; i < calls; ++i) operation();
    Require(cudaEventRecord(end, stream), "timing");
    Require(cudaEventSynchronize(end), "waiting for the device");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    seconds.push_back(1e-3 * milliseconds / calls);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  std::nth_element(seconds.begin(), seconds.begin() + 2, seconds.end());
  return seconds[2];
}

}  // namespace strata::testing
