#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/cuda/stream.h"

namespace strata::kernels::cuda {

// Memory that grows to the need of the largest call and stays. Growing loses the contents. Freeing
// waits for the device.
template <class T, class Memory>
class GrowingArray {
 public:
  GrowingArray() = default;
  GrowingArray(const GrowingArray&) = delete;
  GrowingArray& operator=(const GrowingArray&) = delete;
  ~GrowingArray() {
    if (data_ != nullptr) Memory::Free(data_);
  }

  // At least `count` elements, or null after an error.
  T* Reserve(Stream& stream, size_t count) {
    if (count <= size_) return data_;
    stream.Flush();  // work held back uses the old memory
    if (data_ != nullptr) stream.Check(Memory::Free(data_), "freeing memory");
    data_ = nullptr;
    size_ = 0;
    stream.Check(Memory::Allocate(&data_, count * sizeof(T)), Memory::kAllocating);
    if (!stream.ok()) return nullptr;
    size_ = count;
    return data_;
  }
  // `count` elements at first use, or null if there is no room.
  T* TryReserve(size_t count) {
    if (Memory::Allocate(&data_, count * sizeof(T)) != cudaSuccess) {
      (void)cudaGetLastError();  // no error of the device's
      data_ = nullptr;
      return nullptr;
    }
    size_ = count;
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

struct OnDevice {
  static constexpr const char* kAllocating = "allocating working memory";
  template <class T>
  static cudaError_t Allocate(T** memory, size_t bytes) {
    return cudaMalloc(memory, bytes);
  }
  static cudaError_t Free(void* memory) { return cudaFree(memory); }
};
template <class T>
using DeviceArray = GrowingArray<T, OnDevice>;

// Pinned host memory. REQUIRES: no copy to or from it is under way when it grows.
struct Pinned {
  static constexpr const char* kAllocating = "allocating pinned memory";
  template <class T>
  static cudaError_t Allocate(T** memory, size_t bytes) {
    return cudaMallocHost(memory, bytes);
  }
  static cudaError_t Free(void* memory) { return cudaFreeHost(memory); }
};
template <class T>
using PinnedArray = GrowingArray<T, Pinned>;

// Pinned host memory on its way to the device, in two halves by turns. A half is written again only
// when the device has read its contents.
class Staging {
 public:
  static constexpr size_t kHalf = size_t{4} << 20;

  void Open(Stream& stream) {
    memory_.Reserve(stream, 2 * kHalf);
    for (Event& event : read_) event.Open(stream);
  }

  // Returns `bytes` (at most kHalf) to fill and then Send, before the next Take.
  std::byte* Take(Stream& stream, size_t bytes) {
    if (used_ + bytes > kHalf) {
      stream.Check(cudaEventRecord(read_[half_].handle(), stream.handle()),
                   "marking what was read");
      half_ = 1 - half_;
      used_ = 0;
      stream.Check(cudaEventSynchronize(read_[half_].handle()), "waiting for what was sent");
    }
    std::byte* const taken = memory_.data() + static_cast<size_t>(half_) * kHalf + used_;
    used_ += (bytes + 63) / 64 * 64;
    return taken;
  }

  // Copies host memory to the device; `source` may be changed when this returns.
  void Send(Stream& stream, void* destination, const void* source, size_t bytes) {
    auto* to = static_cast<std::byte*>(destination);
    const auto* from = static_cast<const std::byte*>(source);
    while (bytes > 0 && stream.ok()) {
      const size_t piece = std::min(bytes, kHalf);
      std::byte* const staged = Take(stream, piece);
      std::memcpy(staged, from, piece);
      stream.Copy(to, staged, piece, cudaMemcpyHostToDevice);
      to += piece;
      from += piece;
      bytes -= piece;
    }
  }

 private:
  PinnedArray<std::byte> memory_;
  Event read_[2];
  int half_ = 0;
  size_t used_ = 0;  // of the half
};

}  // namespace strata::kernels::cuda
