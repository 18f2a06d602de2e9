#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/cuda/stream.h"

namespace strata::kernels::cuda {

// Device memory that grows to what the largest call needed and stays; its content goes when it
// grows. Freeing waits for the device.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    if (data_ != nullptr) cudaFree(data_);
  }

  // At least `count` elements, or null after an error.
  T* Reserve(Stream& stream, size_t count) {
    if (count <= size_) return data_;
    stream.Flush();  // what was held back uses it
    if (data_ != nullptr) stream.Check(cudaFree(data_), "freeing memory");
    data_ = nullptr;
    size_ = 0;
    const size_t bytes = count * sizeof(T);
    stream.Check(cudaMalloc(&data_, bytes), "allocating working memory");
    if (!stream.ok()) return nullptr;
    size_ = count;
    return data_;
  }
  // `count` elements the first time, or null where there is no room.
  T* TryReserve(size_t count) {
    if (cudaMalloc(&data_, count * sizeof(T)) != cudaSuccess) {
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

// Pinned host memory that grows likewise; when it does nothing may be under way to it.
template <class T>
class PinnedArray {
 public:
  PinnedArray() = default;
  PinnedArray(const PinnedArray&) = delete;
  PinnedArray& operator=(const PinnedArray&) = delete;
  ~PinnedArray() {
    if (data_ != nullptr) cudaFreeHost(data_);
  }

  // At least `count` elements, or null after an error.
  T* Reserve(Stream& stream, size_t count) {
    if (count <= size_) return data_;
    if (data_ != nullptr) stream.Check(cudaFreeHost(data_), "freeing pinned memory");
    data_ = nullptr;
    size_ = 0;
    stream.Check(cudaMallocHost(&data_, count * sizeof(T)), "allocating pinned memory");
    if (!stream.ok()) return nullptr;
    size_ = count;
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
};

// Pinned host memory on its way to the device, used in turns: two halves, and a half is written
// again only when the device has read what it held.
class Staging {
 public:
  static constexpr size_t kHalf = size_t{4} << 20;

  Staging() = default;
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    for (cudaEvent_t event : read_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (memory_ != nullptr) cudaFreeHost(memory_);
  }

  void Open(Stream& stream) {
    stream.Check(cudaMallocHost(&memory_, 2 * kHalf), "allocating pinned memory");
    for (cudaEvent_t& event : read_) {
      stream.Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
    }
  }

  // `bytes` (at most kHalf) to be filled and then sent with Send, before anything else is taken.
  std::byte* Take(Stream& stream, size_t bytes) {
    if (used_ + bytes > kHalf) {
      stream.Check(cudaEventRecord(read_[half_], stream.handle()), "marking what was read");
      half_ = 1 - half_;
      used_ = 0;
      stream.Check(cudaEventSynchronize(read_[half_]), "waiting for what was sent");
    }
    std::byte* const taken = memory_ + static_cast<size_t>(half_) * kHalf + used_;
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
  std::byte* memory_ = nullptr;
  cudaEvent_t read_[2] = {};
  int half_ = 0;
  size_t used_ = 0;  // of the half
};

}  // namespace strata::kernels::cuda
