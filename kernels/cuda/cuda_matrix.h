#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/memory.h"

namespace strata::kernels::cuda {

// A weight matrix on the device: [stored_rows, stride], both dimensions padded with zeros so that
// kernels read whole vectors; in 8 bits a scale for each row. A gated matrix alternates eight gates
// and their eight ups, so that the sums of 16 outputs hold both. Immutable.
class CudaMatrix final : public Matrix {
 public:
  enum class Order : uint8_t { kStacked, kGated };

  // RESOURCE_EXHAUSTED when memory is short. REQUIRES: parts is not empty, all of one width.
  static absl::StatusOr<std::unique_ptr<CudaMatrix>> Pack(std::span<const HostRows> parts,
                                                          Order order, MatrixFormat stored,
                                                          Stream& stream, Staging& staging);

  int64_t num_outputs() const override { return num_outputs_; }
  int64_t num_inputs() const override { return rows_.num_inputs; }
  size_t bytes() const override {
    const size_t row =
        RowBytes(rows_.format, rows_.stride) + (HasScale(rows_.format) ? sizeof(float) : 0);
    return static_cast<size_t>(stored_rows_) * row;
  }

  bool gated() const { return order_ == Order::kGated; }
  // Columns of a product's result.
  int64_t num_results() const { return gated() ? num_outputs_ / 2 : num_outputs_; }
  const StoredRows& rows() const { return rows_; }
  int64_t stored_rows() const { return stored_rows_; }

 private:
  CudaMatrix() = default;

  Order order_ = Order::kStacked;
  int64_t num_outputs_ = 0;
  int64_t stored_rows_ = 0;
  DeviceArray<std::byte> memory_;
  StoredRows rows_;
};

}  // namespace strata::kernels::cuda
