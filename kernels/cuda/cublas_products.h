#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "absl/status/status.h"
#include "cublasLt.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/tensor.h"

namespace strata::kernels::cuda {

// Products by cuBLASLt. It cuts a product by the number of rows, so a row's last bits may depend on
// that number. One thread.
class CublasProducts {
 public:
  CublasProducts() = default;
  CublasProducts(const CublasProducts&) = delete;
  CublasProducts& operator=(const CublasProducts&) = delete;
  ~CublasProducts();

  absl::Status Open(Stream& stream);

  // out[i, j] (+)= sum_k x[i, k] * w[j, k], sums in f32. w: [out.num_cols, num_inputs] and x:
  // [out.num_rows, num_inputs] of one format, consecutive rows of whole 16 bytes. In int8 sums are
  // i32 in out's memory, and `add` is false; the caller applies scales. In 8 bits out.num_cols is a
  // multiple of 16. Returns false and does nothing if the library has no plan for the product; this
  // answer stays for its shape.
  bool Multiply(Stream& stream, MatrixFormat format, const void* w, const void* x,
                int64_t num_inputs, Rows out, bool add);

 private:
  // Properties of a product that decide its plan: format, outputs, inputs, rows, out's stride,
  // alignment of out.
  using Shape = std::tuple<MatrixFormat, int64_t, int64_t, int64_t, int64_t, uint32_t>;
  struct Plan {
    cublasLtMatmulDesc_t operation = nullptr;
    cublasLtMatrixLayout_t w = nullptr;
    cublasLtMatrixLayout_t x = nullptr;
    cublasLtMatrixLayout_t out = nullptr;
    cublasLtMatmulAlgo_t algorithm = {};
    bool asked = false;
    bool exists = false;
  };
  class Product;
  static constexpr size_t kWorkspace = size_t{32} << 20;

  const Plan& PlanFor(const Shape& shape);
  cublasStatus_t MakePlan(const Shape& shape, Plan* plan) const;

  cublasLtHandle_t handle_ = nullptr;
  DeviceArray<std::byte> workspace_;
  std::map<Shape, Plan> plans_;
};

}  // namespace strata::kernels::cuda
