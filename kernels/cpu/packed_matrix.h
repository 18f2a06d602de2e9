#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/aligned_memory.h"
#include "kernels/cpu/thread_pool.h"

namespace strata::kernels {

// Weights [num_outputs, num_inputs] as [ceil(num_outputs / 32)] panels of [num_inputs][32]: a step
// over the inputs reads 32 neighbouring outputs. The last panel is padded with zeros. In bf16
// panels are [ceil(num_inputs / 2)][32][2] and in 8 bits [ceil(num_inputs / 4)][32][4], so that an
// instruction which adds up two or four products finds the inputs of an output side by side. In 8
// bits a scale for each output follows the last panel.
// A gated matrix, its first half gates and its second half ups, has 16 gates and their 16 ups in a
// panel, so that a panel's sums hold both. The order is the same for every instruction set; only
// speed depends on that. Immutable.
class PackedMatrix final : public Matrix {
 public:
  static constexpr int64_t kPanel = 32;
  enum class Order : uint8_t { kStacked, kGated };

  // REQUIRES: parts is not empty, all of one width; stored is kF32, kBF16 or kI8; a gated matrix
  // has an even number of rows.
  static absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const HostRows> parts,
                                                            Order order, MatrixFormat stored,
                                                            ThreadPool& pool);

  int64_t num_outputs() const override { return num_outputs_; }
  int64_t num_inputs() const override { return num_inputs_; }
  size_t bytes() const override { return memory_.size(); }

  MatrixFormat stored() const { return stored_; }
  bool gated() const { return order_ == Order::kGated; }
  // Columns of a product's result that come from one panel.
  int64_t panel_results() const { return gated() ? kPanel / 2 : kPanel; }
  int64_t num_panels() const { return num_panels_; }
  // T as stored: float, uint16_t (bf16) or uint8_t (weights + 128).
  template <class T>
  const T* panel(int64_t i) const {
    return reinterpret_cast<const T*>(memory_.data()) + i * panel_elements_;
  }
  // Factors of the finished sums, [num_panels * 32]; null unless stored in 8 bits.
  const float* scales() const {
    return stored_ == MatrixFormat::kI8
               ? reinterpret_cast<const float*>(panel<uint8_t>(num_panels()))
               : nullptr;
  }

  // Row `output` of the matrix, widened: [num_inputs].
  void CopyRow(int64_t output, float* to) const;

 private:
  PackedMatrix() = default;
  // Calls body(column, part, row) for each output in the panel.
  template <class Body>
  void ForPanelRows(std::span<const HostRows> parts, int64_t panel, Body body) const;
  template <class T>
  void FillPanel(std::span<const HostRows> parts, int64_t panel);
  void QuantisePanel(std::span<const HostRows> parts, int64_t panel);

  Order order_ = Order::kStacked;
  MatrixFormat stored_ = MatrixFormat::kF32;
  int64_t num_outputs_ = 0;
  int64_t num_inputs_ = 0;
  int64_t num_panels_ = 0;
  int64_t panel_elements_ = 0;  // padding included
  AlignedMemory memory_;
};

}  // namespace strata::kernels
