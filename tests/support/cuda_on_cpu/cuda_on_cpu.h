#pragma once

#include <cstdint>

#include "tests/support/cuda_on_cpu/cuda_runtime.h"

// Controls of the emulated device, for tests.
namespace cuda_on_cpu {

// Makes every later call return `error`, as after a faulty kernel; cudaSuccess ends that.
void SetFault(cudaError_t error);
// Sets the number of devices and their compute capability.
void SetDevices(int count, int major = 9, int minor = 0);
// Sets the bytes of each device's memory; no less than the bytes in use. 2 GiB at first.
void SetMemory(size_t bytes);
// Allocations of device and pinned memory since the process began, and pieces of work put into
// streams.
int64_t Allocations();
int64_t Launches();
int64_t GraphLaunches();  // each runs the captured work
int64_t GraphsMade();
int64_t CopiesIn();  // from the host to the device
int64_t CopiesOut();
// Bytes that kernels have read with the hint to keep them in the second cache, and with the hint to
// evict them first. SetKeptCache: the bytes that a device reports it can keep, 1 MiB at first.
int64_t KeptBytes();
int64_t PassedBytes();
void SetKeptCache(int bytes);
// Takes cuBLASLt's plans for products of [first, last] rows away; none at first.
void RefusePlans(int64_t first, int64_t last);
// Allocated bytes of device memory.
size_t BytesInUse();

}  // namespace cuda_on_cpu
