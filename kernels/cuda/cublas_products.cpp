#include "kernels/cuda/cublas_products.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace strata::kernels::cuda {

namespace {

cudaDataType_t TypeOf(MatrixFormat format) {
  switch (format) {
    case MatrixFormat::kF32:
      break;
    case MatrixFormat::kBF16:
      return CUDA_R_16BF;
    case MatrixFormat::kF16:
      return CUDA_R_16F;
    case MatrixFormat::kI8:
      return CUDA_R_8I;
    case MatrixFormat::kF8:
      return CUDA_R_8F_E4M3;
  }
  return CUDA_R_32F;
}

}  // namespace

CublasProducts::~CublasProducts() {
  for (auto& [shape, plan] : plans_) {
    if (plan.operation != nullptr) cublasLtMatmulDescDestroy(plan.operation);
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.out}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
  }
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::Status CublasProducts::Open(Stream& stream) {
  const cublasStatus_t status = cublasLtCreate(&handle_);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError(
        absl::StrCat("cuBLASLt does not start: status ", static_cast<int>(status)));
  }
  workspace_.Reserve(stream, kWorkspace);
  return absl::OkStatus();
}

const CublasProducts::Plan& CublasProducts::PlanFor(const Shape& shape) {
  Plan& plan = plans_[shape];
  if (std::exchange(plan.asked, true)) return plan;
  plan.exists = MakePlan(shape, &plan) == CUBLAS_STATUS_SUCCESS;
  return plan;
}

// Consecutive rows are columns to cuBLASLt: out^T [outputs, rows] = w x^T, with w stored
// transposed. Only asks the library: an error is an answer, not a failure of the device.
cublasStatus_t CublasProducts::MakePlan(const Shape& shape, Plan* plan) const {
  const auto& [format, outputs, inputs, rows, out_stride, alignment] = shape;
  const cudaDataType_t type = TypeOf(format);
  const bool exact = format == MatrixFormat::kI8;
  const cudaDataType_t sums = exact ? CUDA_R_32I : CUDA_R_32F;
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;  // the first failure, if any
  const auto check = [&status](cublasStatus_t step) {
    if (status == CUBLAS_STATUS_SUCCESS) status = step;
    return status == CUBLAS_STATUS_SUCCESS;
  };
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const auto size = [](int64_t count) { return static_cast<uint64_t>(count); };
  if (!check(cublasLtMatmulDescCreate(&plan->operation,
                                      exact ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, sums)) ||
      !check(cublasLtMatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                            &transposed, sizeof(transposed))) ||
      !check(cublasLtMatrixLayoutCreate(&plan->w, type, size(inputs), size(outputs), inputs)) ||
      !check(cublasLtMatrixLayoutCreate(&plan->x, type, size(inputs), size(rows), inputs)) ||
      !check(cublasLtMatrixLayoutCreate(&plan->out, sums, size(outputs), size(rows), out_stride))) {
    return status;
  }
  cublasLtMatmulPreference_t preference = nullptr;
  if (!check(cublasLtMatmulPreferenceCreate(&preference))) return status;
  const size_t workspace = kWorkspace;
  check(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace, sizeof(workspace)));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    check(
        cublasLtMatmulPreferenceSetAttribute(preference, attribute, &alignment, sizeof(alignment)));
  }
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    check(cublasLtMatmulAlgoGetHeuristic(handle_, plan->operation, plan->w, plan->x, plan->out,
                                         plan->out, preference, 1, &found, &count));
    if (count == 0) check(CUBLAS_STATUS_NOT_SUPPORTED);
  }
  cublasLtMatmulPreferenceDestroy(preference);
  plan->algorithm = found.algo;
  return status;
}

// One product, which may run any number of times.
class CublasProducts::Product final : public Work {
 public:
  Product(cublasLtHandle_t handle, const Plan* plan, bool exact, const void* w, const void* x,
          void* out, bool add, std::byte* workspace)
      : Work("a product of cuBLASLt"),
        handle_(handle),
        plan_(plan),
        exact_(exact),
        w_(w),
        x_(x),
        out_(out),
        add_(add),
        workspace_(workspace) {}

  cudaError_t Run(cudaStream_t stream) const override {
    const float one = 1;
    const float kept = add_ ? 1 : 0;
    const int32_t exact_one = 1;
    const int32_t exact_zero = 0;
    const void* const alpha = exact_ ? static_cast<const void*>(&exact_one) : &one;
    const void* const beta = exact_ ? static_cast<const void*>(&exact_zero) : &kept;
    const cublasStatus_t status = cublasLtMatmul(handle_, plan_->operation, alpha, w_, plan_->w, x_,
                                                 plan_->x, beta, out_, plan_->out, out_, plan_->out,
                                                 &plan_->algorithm, workspace_, kWorkspace, stream);
    return status == CUBLAS_STATUS_SUCCESS ? cudaSuccess : cudaErrorUnknown;
  }
  bool Same(const Work& other) const override {
    const auto* const product = dynamic_cast<const Product*>(&other);
    return product != nullptr && plan_ == product->plan_ && w_ == product->w_ &&
           x_ == product->x_ && out_ == product->out_ && add_ == product->add_;
  }

 private:
  const cublasLtHandle_t handle_;
  const Plan* const plan_;
  const bool exact_;  // sums in i32
  const void* const w_;
  const void* const x_;
  void* const out_;
  const bool add_;
  std::byte* const workspace_;
};

bool CublasProducts::Multiply(Stream& stream, MatrixFormat format, const void* w, const void* x,
                              int64_t num_inputs, Rows out, bool add) {
  // The largest power of two, up to 16, that divides the address of every row of out.
  const auto address = reinterpret_cast<uintptr_t>(out.data) |
                       static_cast<uintptr_t>(out.stride) * sizeof(float) | 16;
  const auto alignment = static_cast<uint32_t>(address & (~address + 1));
  const Plan& plan =
      PlanFor({format, out.num_cols, num_inputs, out.num_rows, out.stride, alignment});
  if (!plan.exists) return false;
  stream.Put(
      Product(handle_, &plan, format == MatrixFormat::kI8, w, x, out.data, add, workspace_.data()));
  return true;
}

}  // namespace strata::kernels::cuda
