#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace strata::kernels {

// Weights and planes are quantised to 8 bits: integers, or floats of 4 bits of exponent and 3 of
// fraction (e4m3), with a scale beside them. No checkpoint holds 8 bits.
enum class DType : uint8_t { kF32, kBF16, kF16, kI8, kF8 };

constexpr bool HasScale(DType dtype) { return dtype == DType::kI8 || dtype == DType::kF8; }

// Bytes of one number, without its share of a scale.
constexpr size_t DTypeSize(DType dtype) {
  return dtype == DType::kF32 ? 4 : HasScale(dtype) ? 1 : 2;
}

constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI8:
      return "int8";
    case DType::kF8:
      return "fp8";
  }
  return "?";
}

// Consecutive rows of a row-major matrix in host memory, as a checkpoint holds them:
// [num_rows, num_cols], no padding, any alignment. Does not own `data`.
struct HostRows {
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
};

// Activations in backend memory: [num_rows, num_cols], rows `stride` floats apart.
// Does not own `data`.
struct ConstRows {
  const float* data = nullptr;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t stride = 0;

  friend bool operator==(const ConstRows&, const ConstRows&) = default;
};

struct Rows {
  float* data = nullptr;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t stride = 0;

  operator ConstRows() const { return {data, num_rows, num_cols, stride}; }  // NOLINT

  // Columns [begin, begin + count) of every row.
  Rows Columns(int64_t begin, int64_t count) const {
    return {data + begin, num_rows, count, stride};
  }

  friend bool operator==(const Rows&, const Rows&) = default;
};

}  // namespace strata::kernels
