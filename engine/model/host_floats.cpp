#include "engine/model/host_floats.h"

#include <cstdint>
#include <cstring>

#include "kernels/convert.h"

namespace strata::engine {
namespace {

template <typename T>
T LoadUnaligned(const std::byte* source) {
  T value;
  std::memcpy(&value, source, sizeof(value));
  return value;
}

float Element(kernels::ElementType type, const std::byte* source) {
  switch (type) {
    case kernels::ElementType::kF32:
      break;
    case kernels::ElementType::kBF16:
      return kernels::FloatFromBF16(LoadUnaligned<uint16_t>(source));
    case kernels::ElementType::kF16:
      return kernels::FloatFromF16(LoadUnaligned<uint16_t>(source));
  }
  return LoadUnaligned<float>(source);
}

}  // namespace

std::vector<float> HostFloats(const TensorView& tensor) {
  const size_t size = kernels::NumberBytes(tensor.dtype);
  std::vector<float> floats;
  floats.reserve(tensor.bytes / size);
  for (size_t at = 0; at < tensor.bytes; at += size) {
    floats.push_back(Element(tensor.dtype, tensor.data + at));
  }
  return floats;
}

}  // namespace strata::engine
