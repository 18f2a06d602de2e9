#include "engine/model/host_floats.h"

#include <cstdint>
#include <cstring>

#include "kernels/cpu/convert.h"

namespace strata::engine {
namespace {

template <typename T>
T LoadUnaligned(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

float Element(kernels::DType dtype, const std::byte* source) {
  switch (dtype) {
    case kernels::DType::kF32:
    case kernels::DType::kI8:  // in no checkpoint, like the next
    case kernels::DType::kF8:
      break;
    case kernels::DType::kBF16:
      return kernels::FloatFromBF16(LoadUnaligned<uint16_t>(source));
    case kernels::DType::kF16:
      return kernels::FloatFromF16(LoadUnaligned<uint16_t>(source));
  }
  return LoadUnaligned<float>(source);
}

}  // namespace

std::vector<float> HostFloats(const TensorView& tensor) {
  const size_t size = kernels::DTypeSize(tensor.dtype);
  std::vector<float> floats;
  floats.reserve(tensor.bytes / size);
  for (size_t at = 0; at < tensor.bytes; at += size) {
    floats.push_back(Element(tensor.dtype, tensor.data + at));
  }
  return floats;
}

}  // namespace strata::engine
