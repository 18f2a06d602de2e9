#include "kernels/cuda/cuda_matrix.h"

#include <cstring>

#include "kernels/check.h"
#include "kernels/convert.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/product_kernels.h"

namespace strata::kernels::cuda {
namespace {

constexpr int64_t RoundUp(int64_t count, int64_t group) {
  return (count + group - 1) / group * group;
}

// Element `i` of `numbers`, which may have any alignment.
float Widened(ElementType type, const std::byte* numbers, int64_t i) {
  const std::byte* from = numbers + static_cast<size_t>(i) * NumberBytes(type);
  if (type == ElementType::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return type == ElementType::kBF16 ? FloatFromBF16(bits) : FloatFromF16(bits);
}

// A row as a checkpoint holds it, or widened to f32.
void StageRow(const HostRows& part, int64_t row, MatrixFormat staged, std::byte* to) {
  const std::byte* from =
      part.data + static_cast<size_t>(row * part.num_cols) * NumberBytes(part.type);
  if (MatrixFormatOf(part.type) == staged) {
    std::memcpy(to, from, RowBytes(staged, part.num_cols));
    return;
  }
  auto* const floats = reinterpret_cast<float*>(to);
  for (int64_t i = 0; i < part.num_cols; ++i) floats[i] = Widened(part.type, from, i);
}

// The part and row of each stored row in turn; no part for padding.
class RowOrder {
 public:
  RowOrder(std::span<const HostRows> parts, CudaMatrix::Order order)
      : parts_(parts), order_(order) {}
  struct Place {
    const HostRows* part = nullptr;
    int64_t row = 0;
  };
  Place At(int64_t stored) const {
    if (order_ == CudaMatrix::Order::kGated) {
      const int64_t row = stored / 16 * 8 + stored % 8;
      const HostRows& part = parts_[stored % 16 < 8 ? 0 : 1];
      return row < part.num_rows ? Place{&part, row} : Place{};
    }
    for (const HostRows& part : parts_) {
      if (stored < part.num_rows) return {&part, stored};
      stored -= part.num_rows;
    }
    return {};
  }

 private:
  std::span<const HostRows> parts_;
  CudaMatrix::Order order_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaMatrix>> CudaMatrix::Pack(std::span<const HostRows> parts,
                                                             Order order, MatrixFormat stored,
                                                             Stream& stream, Staging& staging) {
  STRATA_CHECK(!parts.empty(), "a matrix has rows");
  std::unique_ptr<CudaMatrix> matrix(new CudaMatrix);
  int64_t outputs = 0;
  MatrixFormat staged_format =
      stored;  // other formats go to the device as f32 and are converted there
  for (const HostRows& part : parts) {
    STRATA_CHECK(part.num_cols == parts[0].num_cols, "parts are of one width");
    outputs += part.num_rows;
    if (MatrixFormatOf(part.type) != stored) staged_format = MatrixFormat::kF32;
  }
  matrix->order_ = order;
  matrix->num_outputs_ = outputs;
  const bool gated = order == Order::kGated;
  matrix->stored_rows_ = gated ? RoundUp(outputs / 2, 8) * 2 : RoundUp(outputs, kOutputGroup);
  matrix->rows_ = {.format = stored,
                   .num_inputs = parts[0].num_cols,
                   .stride = RoundUp(parts[0].num_cols,
                                     kGroupBytes / static_cast<int64_t>(NumberBytes(stored)))};
  auto reserved = ReserveOrExplain(matrix->memory_, stream, matrix->bytes(), "a weight matrix");
  if (!reserved.ok()) return reserved.status();
  const size_t row_bytes = RowBytes(stored, matrix->rows_.stride);
  float* scales = nullptr;
  if (HasScale(stored)) {  // behind the rows, whose bytes are a multiple of 64
    scales =
        reinterpret_cast<float*>(*reserved + static_cast<size_t>(matrix->stored_rows_) * row_bytes);
  }
  matrix->rows_.data = *reserved;
  matrix->rows_.scales = scales;

  // As many rows at a time as half the staging memory holds; a row of a model fits many times.
  const size_t staged_bytes = RowBytes(staged_format, matrix->rows_.stride);
  STRATA_CHECK(staged_bytes <= Staging::kHalf, "a row fits the staging memory");
  const auto rows_at_once = static_cast<int64_t>(Staging::kHalf / staged_bytes);
  const RowOrder rows(parts, order);
  DeviceArray<std::byte> wide;
  for (int64_t begin = 0; begin < matrix->stored_rows_; begin += rows_at_once) {
    const int64_t count = std::min(rows_at_once, matrix->stored_rows_ - begin);
    const size_t bytes = static_cast<size_t>(count) * staged_bytes;
    std::byte* const staged = staging.Take(stream, bytes);
    if (!stream.ok()) break;
    std::memset(staged, 0, bytes);
    for (int64_t i = 0; i < count; ++i) {
      const auto [part, index] = rows.At(begin + i);
      if (part == nullptr) continue;
      StageRow(*part, index, staged_format, staged + static_cast<size_t>(i) * staged_bytes);
    }
    std::byte* const to = *reserved + static_cast<size_t>(begin) * row_bytes;
    if (staged_format == stored) {
      stream.Copy(to, staged, bytes, cudaMemcpyHostToDevice);
      continue;
    }
    std::byte* const floats = wide.Reserve(stream, bytes);
    stream.Copy(floats, staged, bytes, cudaMemcpyHostToDevice);
    const int64_t width = matrix->rows_.stride;
    PrepareInputs(stream, {reinterpret_cast<const float*>(floats), count, width, width},
                  /*weight=*/nullptr, /*epsilon=*/0, stored, width, to,
                  scales == nullptr ? nullptr : scales + begin);
  }
  if (absl::Status status = StatusOf(stream); !status.ok()) return status;
  return matrix;
}

}  // namespace strata::kernels::cuda
