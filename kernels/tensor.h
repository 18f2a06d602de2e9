#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace strata::kernels {

// The type of a checkpoint's numbers.
enum class ElementType : uint8_t { kF32, kBF16, kF16 };

// How a backend keeps a matrix. Formats of 8 bits, integers or floats of 4 bits of exponent and 3
// of fraction (e4m3), have scales beside the numbers.
enum class MatrixFormat : uint8_t { kF32, kBF16, kF16, kI8, kF8 };
// How a backend keeps the keys, or the values, of the cache; in 8 bits with a scale a token.
enum class PlaneFormat : uint8_t { kF32, kBF16, kF16, kI8, kF8 };

template <typename T>
concept NumberFormat = std::is_same_v<T, MatrixFormat> || std::is_same_v<T, PlaneFormat>;

constexpr bool HasScale(NumberFormat auto format) {
  return format == decltype(format)::kI8 || format == decltype(format)::kF8;
}

// Bytes of one number, without its share of a scale.
constexpr size_t NumberBytes(ElementType type) { return type == ElementType::kF32 ? 4 : 2; }
constexpr size_t NumberBytes(NumberFormat auto format) {
  return format == decltype(format)::kF32 ? 4 : HasScale(format) ? 1 : 2;
}

// Bytes of a row's numbers, without scales.
constexpr size_t RowBytes(MatrixFormat format, int64_t columns) {
  return static_cast<size_t>(columns) * NumberBytes(format);
}

// The format that keeps such numbers as they are.
constexpr MatrixFormat MatrixFormatOf(ElementType type) { return static_cast<MatrixFormat>(type); }
constexpr PlaneFormat PlaneFormatOf(ElementType type) { return static_cast<PlaneFormat>(type); }
// The format of the same name.
constexpr PlaneFormat PlaneFormatOf(MatrixFormat format) {
  return static_cast<PlaneFormat>(format);
}

// "f32", "bf16", "f16", "int8", "fp8"
template <typename T>
constexpr std::string_view FormatName(T format) {
  constexpr std::string_view kNames[] = {"f32", "bf16", "f16", "int8", "fp8"};
  return kNames[static_cast<size_t>(format)];
}

// Consecutive rows of a row-major matrix in host memory, as a checkpoint holds them:
// [num_rows, num_cols], no padding, any alignment. Does not own `data`.
struct HostRows {
  ElementType type = ElementType::kF32;
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

// RMSNorm of rows: x[i, :] / sqrt(mean(x[i, :]^2) + epsilon) * weight.
struct RmsNorm {
  const float* weight = nullptr;  // [num_cols], backend memory; null: x stays as it is
  float epsilon = 0;

  friend bool operator==(const RmsNorm&, const RmsNorm&) = default;
};

}  // namespace strata::kernels
