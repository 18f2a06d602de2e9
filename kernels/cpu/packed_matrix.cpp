#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/check.h"
#include "kernels/convert.h"
#include "kernels/cpu/quantise.h"
#include "kernels/status_macros.h"

namespace strata::kernels {
namespace {

constexpr int64_t kStrip = 64;  // columns converted at a time; 32 of them fit in the first cache
constexpr auto kGroup = static_cast<int64_t>(kInt8Group);

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
  const size_t size = NumberBytes(part.type);
  const std::byte* from = part.data + static_cast<size_t>(row * part.num_cols + begin) * size;
  const auto n = static_cast<size_t>(count);
  switch (part.type) {
    case ElementType::kF32:
      for (size_t i = 0; i < n; ++i) to[i] = Narrow<T>(Load<float>(from + i * size));
      return;
    case ElementType::kBF16:
      if constexpr (std::is_same_v<T, uint16_t>) {
        std::memcpy(to, from, n * size);
      } else {
        for (size_t i = 0; i < n; ++i) to[i] = FloatFromBF16(Load<uint16_t>(from + i * size));
      }
      return;
    case ElementType::kF16:
      for (size_t i = 0; i < n; ++i) {
        to[i] = Narrow<T>(FloatFromF16(Load<uint16_t>(from + i * size)));
      }
      return;
  }
}

// Calls body(r, part, row) for matrix rows first + r, r in [0, count), each with the part that
// holds it and its row there.
template <class Body>
void ForStackedRows(std::span<const HostRows> parts, int64_t first, int64_t count, Body body) {
  size_t part = 0;
  int64_t part_first = 0;  // the matrix row at which the part starts
  for (int64_t r = 0; r < count; ++r) {
    while (first + r - part_first >= parts[part].num_rows) part_first += parts[part++].num_rows;
    body(r, parts[part], first + r - part_first);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedMatrix>> PackedMatrix::Pack(std::span<const HostRows> parts,
                                                                 Order order, MatrixFormat stored,
                                                                 ThreadPool& pool) {
  STRATA_CHECK(!parts.empty(), "a matrix has rows");
  STRATA_CHECK(stored != MatrixFormat::kF16 && stored != MatrixFormat::kF8,
               "weights are kept as f32, bf16 or int8");
  std::unique_ptr<PackedMatrix> matrix(new PackedMatrix);
  matrix->order_ = order;
  matrix->stored_ = stored;
  matrix->num_inputs_ = parts[0].num_cols;
  for (const HostRows& part : parts) {
    STRATA_CHECK(part.num_cols == matrix->num_inputs_, "stacked parts have one width");
    matrix->num_outputs_ += part.num_rows;
  }
  STRATA_CHECK(!matrix->gated() || matrix->num_outputs_ % 2 == 0, "a gate for every up");
  const int64_t results = matrix->gated() ? matrix->num_outputs_ / 2 : matrix->num_outputs_;
  const int64_t panels = (results + matrix->panel_results() - 1) / matrix->panel_results();
  matrix->num_panels_ = panels;
  const int64_t side_by_side = 4 / static_cast<int64_t>(NumberBytes(stored));
  matrix->panel_elements_ =
      (matrix->num_inputs_ + side_by_side - 1) / side_by_side * side_by_side * kPanel;
  const auto elements = static_cast<size_t>(panels * matrix->panel_elements_);
  const size_t scale_bytes =
      stored == MatrixFormat::kI8 ? static_cast<size_t>(panels * kPanel) * sizeof(float) : 0;
  ASSIGN_OR_RETURN(AlignedMemory memory,
                   AlignedMemory::Allocate(elements * NumberBytes(stored) + scale_bytes));
  matrix->memory_ = std::move(memory);
  pool.ParallelFor(panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t panel = begin; panel < end; ++panel) {
      if (stored == MatrixFormat::kF32) {
        matrix->FillPanel<float>(parts, panel);
      } else if (stored == MatrixFormat::kI8) {
        matrix->QuantisePanel(parts, panel);
      } else {
        matrix->FillPanel<uint16_t>(parts, panel);
      }
    }
  });
  return matrix;
}

template <class Body>
void PackedMatrix::ForPanelRows(std::span<const HostRows> parts, int64_t panel, Body body) const {
  const int64_t results = panel_results();
  const int64_t stacks = kPanel / results;  // a gated matrix is two of them
  const int64_t height = num_outputs_ / stacks;
  const int64_t count = std::min(results, height - panel * results);
  for (int64_t stack = 0; stack < stacks; ++stack) {
    ForStackedRows(parts, stack * height + panel * results, count,
                   [&](int64_t r, const HostRows& part, int64_t row) {
                     body(stack * results + r, part, row);
                   });
  }
}

template <class T>
void PackedMatrix::FillPanel(std::span<const HostRows> parts, int64_t panel) {
  // Moves neighbouring inputs of an output as one word.
  constexpr int64_t kInputs = sizeof(uint32_t) / sizeof(T);
  auto* to = reinterpret_cast<uint32_t*>(memory_.data()) + panel * panel_elements_ / kInputs;
  T strip[kPanel][kStrip] = {};  // 0 where the panel has no output
  for (int64_t begin = 0; begin < num_inputs_; begin += kStrip) {
    const int64_t count = std::min(kStrip, num_inputs_ - begin);
    ForPanelRows(parts, panel, [&](int64_t column, const HostRows& part, int64_t row) {
      ConvertStrip(part, row, begin, count, strip[column]);
      if (count % kInputs != 0) strip[column][count] = 0;
    });
    for (int64_t k = 0; k < count; k += kInputs, to += kPanel) {
      for (int64_t c = 0; c < kPanel; ++c) std::memcpy(to + c, &strip[c][k], sizeof(uint32_t));
    }
  }
}

void PackedMatrix::QuantisePanel(std::span<const HostRows> parts, int64_t panel) {
  auto* bytes = reinterpret_cast<uint8_t*>(memory_.data());
  uint8_t* to = bytes + panel * panel_elements_;
  float* scales = reinterpret_cast<float*>(bytes + num_panels() * panel_elements_) + panel * kPanel;
  std::vector<float> values(static_cast<size_t>(panel_elements_ / kPanel));
  ForPanelRows(parts, panel, [&](int64_t column, const HostRows& part, int64_t row) {
    ConvertStrip(part, row, 0, num_inputs_, values.data());
    scales[column] =
        QuantiseOutput(values.data(), static_cast<size_t>(num_inputs_), to + column * kGroup);
  });
}

void PackedMatrix::CopyRow(int64_t output, float* to) const {
  const int64_t height = gated() ? num_outputs_ / 2 : num_outputs_;
  const int64_t result = output % height;  // of a product
  const int64_t place = result / panel_results();
  const int64_t column = output / height * panel_results() + result % panel_results();
  if (stored_ == MatrixFormat::kF32) {
    const float* from = panel<float>(place) + column;
    for (int64_t k = 0; k < num_inputs_; ++k) to[k] = from[k * kPanel];
  } else if (stored_ == MatrixFormat::kI8) {
    const uint8_t* from = panel<uint8_t>(place) + column * kGroup;
    const float scale = scales()[place * kPanel + column];
    for (int64_t k = 0; k < num_inputs_; ++k) {
      const int32_t q = from[k / kGroup * kGroup * kPanel + k % kGroup] - kInt8Offset;
      to[k] = static_cast<float>(q) * scale;
    }
  } else {
    const uint16_t* from = panel<uint16_t>(place) + column * 2;
    for (int64_t k = 0; k < num_inputs_; ++k)
      to[k] = FloatFromBF16(from[k / 2 * 2 * kPanel + k % 2]);
  }
}

}  // namespace strata::kernels
