#include "kernels/cpu/aligned_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu/numa.h"

namespace strata::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMapFrom = 2 * kHugePage;  // below, the heap wastes less

absl::Status OutOfMemory(size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("out of memory: cannot allocate ", bytes, " bytes"));
}

}  // namespace

absl::StatusOr<AlignedMemory> AlignedMemory::Allocate(size_t bytes) {
  if (bytes > SIZE_MAX / 2) return OutOfMemory(bytes);
  AlignedMemory memory;
  memory.size_ = bytes;
  if (bytes < kMapFrom) {
    const size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // never zero
    void* data = std::aligned_alloc(kAlignment, rounded);
    if (data == nullptr) return OutOfMemory(bytes);
    memory.data_ = static_cast<std::byte*>(std::memset(data, 0, rounded));
    return memory;
  }
  // One huge page more than asked for, so that the data can start on a huge page's border.
  const size_t mapped = bytes + kHugePage;
  void* mapping = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return OutOfMemory(bytes);
  const auto address = reinterpret_cast<uintptr_t>(mapping);
  memory.data_ = static_cast<std::byte*>(mapping) + ((kHugePage - address % kHugePage) % kHugePage);
  memory.mapping_ = mapping;
  memory.mapping_bytes_ = mapped;
  madvise(memory.data_, bytes, MADV_HUGEPAGE);  // a hint: small pages work too
  InterleaveOverNodes(memory.data_, bytes);
  return memory;
}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  return *this;
}

AlignedMemory::~AlignedMemory() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapping_bytes_);
  } else {
    std::free(data_);
  }
}

float* Scratch::Floats(size_t count) {
  if (count * sizeof(float) > memory_.size()) {
    memory_ = AlignedMemory();  // first, so that old and new never stand side by side
    absl::StatusOr<AlignedMemory> grown = AlignedMemory::Allocate(count * sizeof(float));
    STRATA_CHECK(grown.ok(), "scratch memory for one call must fit");
    memory_ = *std::move(grown);
  }
  return reinterpret_cast<float*>(memory_.data());
}

}  // namespace strata::kernels
