#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/memory.h"

namespace strata::kernels::cuda {

// A weight matrix on the device: [stored_rows, stride] in f32 or bf16, both dimensions padded with
// zeros so that kernels read whole vectors. Of a gated matrix eight gates and then their eight ups
// follow each other, so that whoever has the sums of 16 outputs has both. Immutable.
class CudaMatrix final : public Matrix {
 public:
  enum class Order : uint8_t { kStacked, kGated };

  // UNIMPLEMENTED for a dtype that is not kept on the device, RESOURCE_EXHAUSTED when memory is
  // short. REQUIRES: parts is not empty, all of one width.
  static absl::StatusOr<std::unique_ptr<CudaMatrix>> Pack(std::span<const HostRows> parts,
                                                          Order order, DType stored, Stream& stream,
                                                          Staging& staging);

  int64_t num_outputs() const override { return num_outputs_; }
  int64_t num_inputs() const override { return rows_.num_inputs; }
  size_t bytes() const override {
    return static_cast<size_t>(stored_rows_ * rows_.stride) * DTypeSize(rows_.dtype);
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
