#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/convert.h"

namespace strata::kernels {
namespace {

constexpr int64_t kStrip = 64;  // columns converted at a time; 32 of them fit in the first cache

template <class T>
T Load(const std::byte* from) {  // checkpoints align nothing
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <class T>
T Narrow(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return BF16FromFloat(value);
  }
}

// `count` elements of a row from column `begin` on, as they will be stored.
template <class T>
void ConvertStrip(const HostRows& part, int64_t row, int64_t begin, int64_t count, T* to) {
  const size_t size = DTypeSize(part.dtype);
  const std::byte* from = part.data + static_cast<size_t>(row * part.num_cols + begin) * size;
  const auto n = static_cast<size_t>(count);
  switch (part.dtype) {
    case DType::kF32:
      for (size_t i = 0; i < n; ++i) to[i] = Narrow<T>(Load<float>(from + i * size));
      return;
    case DType::kBF16:
      for (size_t i = 0; i < n; ++i) {
        to[i] = Narrow<T>(FloatFromBF16(Load<uint16_t>(from + i * size)));
      }
      return;
    case DType::kF16:
      for (size_t i = 0; i < n; ++i) {
        to[i] = Narrow<T>(FloatFromF16(Load<uint16_t>(from + i * size)));
      }
      return;
    case DType::kI8:
      STRATA_CHECK(false, "no checkpoint holds it");
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackedMatrix::Pack(std::span<const HostRows> parts,
                                                                 DType stored, ThreadPool& pool) {
  STRATA_CHECK(!parts.empty(), "a matrix has rows");
  STRATA_CHECK(stored == DType::kF32 || stored == DType::kBF16, "weights are kept as f32 or bf16");
  std::unique_ptr<PackedMatrix> matrix(new PackedMatrix);
  matrix->stored_ = stored;
  matrix->num_inputs_ = parts[0].num_cols;
  for (const HostRows& part : parts) {
    STRATA_CHECK(part.num_cols == matrix->num_inputs_, "stacked parts have one width");
    matrix->num_outputs_ += part.num_rows;
  }
  const int64_t elements = matrix->num_panels() * matrix->num_inputs_ * kPanel;
  absl::StatusOr<AlignedMemory> memory =
      AlignedMemory::Allocate(static_cast<size_t>(elements) * DTypeSize(stored));
  if (!memory.ok()) return memory.status();
  matrix->memory_ = *std::move(memory);
  pool.ParallelFor(matrix->num_panels(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      if (stored == DType::kF32) {
        matrix->FillPanel<float>(parts, panel);
      } else {
        matrix->FillPanel<uint16_t>(parts, panel);
      }
    }
  });
  return matrix;
}

template <class T>
void PackedMatrix::FillPanel(std::span<const HostRows> parts, int64_t panel) {
  T* to = reinterpret_cast<T*>(memory_.data()) + panel * num_inputs_ * kPanel;
  const int64_t first = panel * kPanel;
  const int64_t rows = std::min(kPanel, num_outputs_ - first);
  for (int64_t begin = 0; begin < num_inputs_; begin += kStrip) {
    const int64_t count = std::min(kStrip, num_inputs_ - begin);
    T strip[kPanel][kStrip];
    size_t part = 0;
    int64_t part_first = 0;  // the matrix row at which the part starts
    for (int64_t r = 0; r < rows; ++r) {
      while (first + r - part_first >= parts[part].num_rows) part_first += parts[part++].num_rows;
      ConvertStrip(parts[part], first + r - part_first, begin, count, strip[r]);
    }
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t r = 0; r < rows; ++r) to[(begin + k) * kPanel + r] = strip[r][k];
    }
  }
}

void PackedMatrix::CopyRow(int64_t output, float* to) const {
  const int64_t column = output % kPanel;
  if (stored_ == DType::kF32) {
    const float* from = panel<float>(output / kPanel) + column;
    for (int64_t k = 0; k < num_inputs_; ++k) to[k] = from[k * kPanel];
  } else {
    const uint16_t* from = panel<uint16_t>(output / kPanel) + column;
    for (int64_t k = 0; k < num_inputs_; ++k) to[k] = FloatFromBF16(from[k * kPanel]);
  }
}

}  // namespace strata::kernels
