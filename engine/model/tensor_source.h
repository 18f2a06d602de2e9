#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"

namespace strata::engine {

// A tensor as it is stored: row-major, little-endian, unaligned. Lives as long as its source.
struct TensorView {
  kernels::ElementType dtype = kernels::ElementType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;  // product of `shape` times the size of an element
};

// A source of a model's weights. Its tensors never change; any thread may read.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual bool Has(std::string_view name) const = 0;
  // NOT_FOUND naming the tensor; INVALID_ARGUMENT if its dtype is none of F32, BF16, F16.
  virtual absl::StatusOr<TensorView> Find(std::string_view name) const = 0;
  virtual std::vector<std::string> Names() const = 0;  // sorted
  // Allows the source to give back the tensor's memory, as it has been read. Find still works.
  virtual void Release(const TensorView& tensor) const = 0;
};

}  // namespace strata::engine
