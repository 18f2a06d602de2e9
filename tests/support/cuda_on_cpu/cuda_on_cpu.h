#pragma once

#include <cstdint>

#include "tests/support/cuda_on_cpu/cuda_runtime.h"

// What tests ask of the device that is none.
namespace cuda_on_cpu {

// From now on every call answers so, as after a kernel that went astray; cudaSuccess mends it.
void SetFault(cudaError_t error);
// What the next machines are: how many devices, of what compute capability.
void SetDevices(int count, int major = 9, int minor = 0);
// Of each device; no less than what is in use. 2 GiB at first.
void SetMemory(size_t bytes);
// Allocations of device and pinned memory since the process began, and work put into streams.
int64_t Allocations();
int64_t Launches();
int64_t GraphLaunches();  // each of them the work that was captured
int64_t GraphsMade();
int64_t CopiesIn();  // from the host to the device
int64_t CopiesOut();
// Bytes that kernels have read so that the second cache keeps them, or lets them go first; how many
// a device says it can keep, 1 MiB at first.
int64_t KeptBytes();
int64_t PassedBytes();
void SetKeptCache(int bytes);
// From now on cuBLASLt has no plan for products of so many rows: [first, last]; none at first.
void RefusePlans(int64_t first, int64_t last);
// Bytes of device memory that are allocated.
size_t BytesInUse();

}  // namespace cuda_on_cpu
