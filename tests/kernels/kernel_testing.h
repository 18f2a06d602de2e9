#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/convert.h"
#include "kernels/cpu/simd_targets.h"
#include "kernels/tensor.h"

namespace strata::kernels {

inline constexpr double kUnit = 0x1p-24;  // half a unit in the last place of 1.0f

inline std::unique_ptr<Backend> MakeCpu(int32_t threads) {
  auto backend = CreateBackend({.device = "cpu", .threads = threads});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return backend.ok() ? *std::move(backend) : nullptr;
}

// Every instruction set this processor can run, the one-lane baseline included.
inline std::vector<int64_t> AllTargets() { return hwy::SupportedAndGeneratedTargets(); }

// Makes kernels run on one instruction set for the life of the object.
class ScopedTarget {
 public:
  explicit ScopedTarget(int64_t target) { hwy::SetSupportedTargetsForTest(target); }
  ~ScopedTarget() { hwy::SetSupportedTargetsForTest(0); }
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float Normal() { return normal_(engine_); }
  std::vector<float> Normals(int64_t count, float scale = 1.0f) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = scale * Normal();
    return values;
  }
  int64_t Below(int64_t end) { return std::uniform_int_distribution<int64_t>(0, end - 1)(engine_); }
  template <class T>
  void Shuffle(std::vector<T>& values) {
    std::shuffle(values.begin(), values.end(), engine_);
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// The nearest bf16 by search over its two neighbours, ties to the even one.
inline float NearestBF16(float value) {
  if (std::isnan(value)) return value;
  const uint32_t below = std::bit_cast<uint32_t>(value) & 0xffff0000u;
  const double low = std::bit_cast<float>(below);
  const double high = std::bit_cast<float>(below + 0x10000u);
  const double to_low = std::abs(value - low);
  const double to_high = std::abs(high - value);
  const bool up = to_high < to_low || (to_high == to_low && (below & 0x10000u) != 0);
  return static_cast<float>(up ? high : low);
}
// A format of few bits: the numbers decode(0) < decode(1) < ... < decode(last), and a sign bit.
struct Codes {
  uint32_t last;
  uint32_t sign;
  float (*decode)(uint32_t code);
};
inline constexpr Codes kF16Codes = {
    0x7bff, 0x8000, [](uint32_t code) { return FloatFromF16(static_cast<uint16_t>(code)); }};
// 4 bits of exponent, 3 of fraction: 448 is the largest.
inline constexpr Codes kE4M3Codes = {
    0x7e, 0x80, [](uint32_t code) {
      const auto exponent = static_cast<int>(code >> 3);
      const auto fraction = static_cast<float>(code & 7);
      return exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    }};
// The nearest by search, ties to the even one.
inline uint32_t NearestCode(const Codes& codes, float value) {
  const double size = std::abs(value);
  uint32_t above = 0;
  for (uint32_t step = 0x4000; step > 0; step /= 2) {
    if (above + step <= codes.last && codes.decode(above + step - 1) < size) above += step;
  }
  if (above > 0) {
    const double to_low = size - codes.decode(above - 1);
    const double to_high = codes.decode(above) - size;
    if (to_low < to_high || (to_low == to_high && above % 2 == 1)) --above;
  }
  return above | (std::signbit(value) ? codes.sign : 0);
}
inline float NearestOf(const Codes& codes, float value) {
  const uint32_t code = NearestCode(codes, value);
  const float size = codes.decode(code & ~codes.sign);
  return (code & codes.sign) != 0 ? -size : size;
}

// The number after storage in 16 or 32 bits.
inline float Stored(float value, NumberFormat auto format) {
  using Format = decltype(format);
  return format == Format::kBF16  ? NearestBF16(value)
         : format == Format::kF16 ? NearestOf(kF16Codes, value)
                                  : value;
}
// A row after storage; in 8 bits with a scale, the largest |x| over the largest number.
inline std::vector<double> StoredRow(const float* row, int64_t dim, NumberFormat auto format) {
  std::vector<double> stored(row, row + dim);
  if (!HasScale(format)) {
    std::transform(row, row + dim, stored.begin(), [format](float x) { return Stored(x, format); });
    return stored;
  }
  float largest = 0;
  for (int64_t d = 0; d < dim; ++d) largest = std::fmax(largest, std::fabs(row[d]));
  const float scale = largest / (format == decltype(format)::kI8 ? 127.0f : 448.0f);
  std::transform(row, row + dim, stored.begin(), [&](float x) {
    const float number = scale == 0 ? 0.0f : x / scale;
    const float nearest =
        format == decltype(format)::kI8 ? std::nearbyint(number) : NearestOf(kE4M3Codes, number);
    return nearest * double{scale};
  });
  return stored;
}

// The identity in f32: a product with it returns its input, to the bit if finite.
inline std::unique_ptr<Matrix> Identity(Backend& backend, int64_t width) {
  std::vector<float> ones(static_cast<size_t>(width * width));
  for (int64_t i = 0; i < width; ++i) ones[static_cast<size_t>(i * width + i)] = 1;
  const HostRows rows = {ElementType::kF32, reinterpret_cast<const std::byte*>(ones.data()), width,
                         width};
  auto packed = backend.Pack({&rows, 1}, MatrixFormat::kF32);
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

// A matrix whose rows are apart, with marks between, before and after them that no kernel may
// touch.
class GuardedRows {
 public:
  GuardedRows(int64_t num_rows, int64_t num_cols, float fill = 0.0f)
      : num_rows_(num_rows), num_cols_(num_cols), memory_(Size(), kMark) {
    for (int64_t i = 0; i < num_rows; ++i) {
      for (int64_t j = 0; j < num_cols; ++j) at(i, j) = fill;
    }
  }
  GuardedRows(int64_t num_rows, int64_t num_cols, const std::vector<float>& values)
      : GuardedRows(num_rows, num_cols) {
    for (int64_t i = 0; i < num_rows; ++i) {
      for (int64_t j = 0; j < num_cols; ++j)
        at(i, j) = values[static_cast<size_t>(i * num_cols + j)];
    }
  }

  float& at(int64_t i, int64_t j) { return memory_[static_cast<size_t>(Index(i, j))]; }
  int64_t Index(int64_t i, int64_t j) const { return kGap + i * stride() + j; }
  Rows rows() { return {memory_.data() + kGap, num_rows_, num_cols_, stride()}; }
  Rows row(int64_t i, int64_t count = 1) { return {&at(i, 0), count, num_cols_, stride()}; }
  int64_t stride() const { return num_cols_ + kGap; }
  std::vector<float>& memory() { return memory_; }
  const std::vector<float>& memory() const { return memory_; }

  std::vector<float> Values() {
    std::vector<float> values;
    for (int64_t i = 0; i < num_rows_; ++i) {
      for (int64_t j = 0; j < num_cols_; ++j) values.push_back(at(i, j));
    }
    return values;
  }
  void ExpectMarksIntact() const {
    for (size_t i = 0; i < memory_.size(); ++i) {
      const int64_t column = (static_cast<int64_t>(i) - kGap) % stride();
      const bool outside = static_cast<int64_t>(i) < kGap || column >= num_cols_;
      if (outside) {
        ASSERT_EQ(memory_[i], kMark) << "written outside the rows, at float " << i;
      }
    }
  }

 private:
  static constexpr int64_t kGap = 3;  // odd: rows start at any alignment
  static constexpr float kMark = -12345.5f;
  size_t Size() const { return static_cast<size_t>(kGap + num_rows_ * stride()); }

  int64_t num_rows_;
  int64_t num_cols_;
  std::vector<float> memory_;
};

// Values in a backend's memory.
template <class T>
std::unique_ptr<Buffer> Upload(Backend& backend, const std::vector<T>& values) {
  auto buffer = backend.Allocate(values.size() * sizeof(T));
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  backend.CopyFromHost((*buffer)->data(), std::as_bytes(std::span(values)));
  return *std::move(buffer);
}
template <class T>
std::vector<T> Download(Backend& backend, const Buffer& buffer) {
  std::vector<T> values(buffer.size() / sizeof(T));
  backend.CopyToHost(std::as_writable_bytes(std::span(values)), buffer.data());
  return values;
}

// Guarded rows in a backend's memory, marks and all.
class BackendRows {
 public:
  BackendRows(Backend& backend, const GuardedRows& rows)
      : backend_(backend), host_(rows), memory_(Upload(backend, rows.memory())) {}

  Rows rows() { return row(0, host_.rows().num_rows); }
  Rows row(int64_t i, int64_t count = 1) {
    Rows rows = host_.row(i, count);
    rows.data = At(i, 0);
    return rows;
  }
  float* At(int64_t i, int64_t j) { return memory_->floats() + host_.Index(i, j); }
  int64_t stride() const { return host_.stride(); }

  // Copies the rows back. No mark may have changed.
  GuardedRows& Fetch() {
    backend_.CopyToHost(std::as_writable_bytes(std::span(host_.memory())), memory_->data());
    host_.ExpectMarksIntact();
    return host_;
  }

 private:
  Backend& backend_;
  GuardedRows host_;
  std::unique_ptr<Buffer> memory_;
};

inline void ExpectSameBits(const std::vector<float>& expected, const std::vector<float>& actual,
                           const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size()) << what;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(expected[i]), std::bit_cast<uint32_t>(actual[i]))
        << what << ": element " << i << ", " << expected[i] << " against " << actual[i];
  }
}

// The numbers as a checkpoint has them, f32 or bf16 cut off, at an odd address: from the second
// byte on.
inline std::vector<std::byte> Bytes(const std::vector<float>& values, ElementType type) {
  std::vector<std::byte> bytes(1 + values.size() * NumberBytes(type));  // for an odd address
  for (size_t i = 0; i < values.size(); ++i) {
    std::byte* to = bytes.data() + 1 + i * NumberBytes(type);
    const auto high = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    if (type == ElementType::kF32) std::memcpy(to, &values[i], 4);
    if (type == ElementType::kBF16) std::memcpy(to, &high, 2);
  }
  return bytes;
}

}  // namespace strata::kernels
