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
// over the inputs reads 32 outputs that stand side by side. The last panel is padded with zeros.
// The same for every instruction set, so that nothing but speed depends on it. Immutable.
class PackedMatrix final : public Matrix {
 public:
  static constexpr int64_t kPanel = 32;

  // REQUIRES: parts is not empty, all of one width; stored is kF32 or kBF16.
  static absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const HostRows> parts,
                                                            DType stored, ThreadPool& pool);

  int64_t num_outputs() const override { return num_outputs_; }
  int64_t num_inputs() const override { return num_inputs_; }
  size_t bytes() const override { return memory_.size(); }

  DType stored() const { return stored_; }
  int64_t num_panels() const { return (num_outputs_ + kPanel - 1) / kPanel; }
  // [num_inputs][32]; T is float or uint16_t (bf16), as stored.
  template <class T>
  const T* panel(int64_t i) const {
    return reinterpret_cast<const T*>(memory_.data()) + i * num_inputs_ * kPanel;
  }

  // Row `output` of the matrix, widened: [num_inputs].
  void CopyRow(int64_t output, float* to) const;

 private:
  PackedMatrix() = default;
  template <class T>
  void FillPanel(std::span<const HostRows> parts, int64_t panel);

  DType stored_ = DType::kF32;
  int64_t num_outputs_ = 0;
  int64_t num_inputs_ = 0;
  AlignedMemory memory_;
};

}  // namespace strata::kernels
