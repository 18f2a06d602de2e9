#pragma once

#include <cstddef>

#include "absl/status/statusor.h"

namespace strata::kernels {

// Owns zeroed memory, aligned to 64 bytes (from 4 MiB on to 2 MiB, and in huge pages if the system
// gives them). Move-only.
class AlignedMemory {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedMemory() = default;
  // RESOURCE_EXHAUSTED, naming the number of bytes, if the system has too little memory.
  static absl::StatusOr<AlignedMemory> Allocate(size_t bytes);
  AlignedMemory(AlignedMemory&& other) noexcept { *this = static_cast<AlignedMemory&&>(other); }
  AlignedMemory& operator=(AlignedMemory&& other) noexcept;
  ~AlignedMemory();

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;  // null: data_ came from the heap
  size_t mapping_bytes_ = 0;
};

// Memory that only grows, and forgets its contents when it grows: scratch space of one owner.
// Nothing is allocated after the largest call.
class Scratch {
 public:
  // At least `count` floats, 64-byte aligned, zeroed when they were last allocated.
  float* Floats(size_t count);
  size_t bytes() const { return memory_.size(); }

 private:
  AlignedMemory memory_;
};

}  // namespace strata::kernels
