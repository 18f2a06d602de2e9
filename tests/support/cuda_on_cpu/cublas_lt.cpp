#include <cstdio>
#include <cstdlib>

#include "tests/support/cuda_on_cpu/cublasLt.h"

namespace {

template <class T, class... Arguments>
cublasStatus_t Make(T** made, Arguments... arguments) {
  *made = new T{arguments...};
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t Destroy(T* made) {
  delete made;
  return CUBLAS_STATUS_SUCCESS;
}

// Element (row, column) of a matrix whose columns stand one after the other.
float At(const void* data, const MatrixLayoutOnCpu& layout, uint64_t row, uint64_t column) {
  const size_t index = row + column * static_cast<uint64_t>(layout.ld);
  if (layout.type == CUDA_R_32F) return static_cast<const float*>(data)[index];
  return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[index]} << 16);
}

// The error that a device would answer with, or the shapes are sound.
bool Fits(const MatmulDescOnCpu& desc, const MatrixLayoutOnCpu& a, const MatrixLayoutOnCpu& b,
          const MatrixLayoutOnCpu& d) {
  const bool transposed = desc.transa == CUBLAS_OP_T;
  const uint64_t inputs = transposed ? a.rows : a.cols;
  const uint64_t outputs = transposed ? a.cols : a.rows;
  return a.type == b.type && d.type == CUDA_R_32F && inputs == b.rows && outputs == d.rows &&
         b.cols == d.cols && a.ld >= static_cast<int64_t>(a.rows) &&
         b.ld >= static_cast<int64_t>(b.rows) && d.ld >= static_cast<int64_t>(d.rows);
}

}  // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return Make(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return Destroy(handle); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t,
                                        cudaDataType_t) {
  return Make(desc);
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) { return Destroy(desc); }
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t, const void* value,
                                              size_t) {
  desc->transa = *static_cast<const cublasOperation_t*>(value);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  return Make(layout, type, rows, cols, ld);
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return Destroy(layout);
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return Make(preference);
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return Destroy(preference);
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t) {
  if (attribute != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
    preference->alignment = *static_cast<const uint32_t*>(value);
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* count) {
  *count = 0;
  if (!Fits(*desc, *a, *b, *d)) return CUBLAS_STATUS_INVALID_VALUE;
  *count = 1;
  results->algo.alignment = preference->alignment;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo,
                              void*, size_t, cudaStream_t stream) {
  if (!Fits(*desc, *a_layout, *b_layout, *d_layout)) return CUBLAS_STATUS_INVALID_VALUE;
  const auto misaligned = [&](void* data) {
    return reinterpret_cast<uintptr_t>(data) % algo->alignment != 0;
  };
  if (misaligned(d)) {
    std::fprintf(stderr, "cuda_on_cpu: cuBLASLt counts on an alignment that is not there\n");
    std::abort();
  }
  cuda_on_cpu::Enqueue(
      stream, [=, desc = *desc, la = *a_layout, lb = *b_layout, lc = *c_layout, ld = *d_layout,
               times = *static_cast<const float*>(alpha), kept = *static_cast<const float*>(beta)] {
        const uint64_t inputs = lb.rows;
        for (uint64_t column = 0; column < ld.cols; ++column) {
          for (uint64_t row = 0; row < ld.rows; ++row) {
            float sum = 0;
            for (uint64_t k = 0; k < inputs; ++k) {
              const float left = desc.transa == CUBLAS_OP_T ? At(a, la, k, row) : At(a, la, row, k);
              sum += left * At(b, lb, k, column);
            }
            sum *= times;
            if (kept != 0) sum += kept * At(c, lc, row, column);
            static_cast<float*>(d)[row + column * static_cast<uint64_t>(ld.ld)] = sum;
          }
        }
      });
  return CUBLAS_STATUS_SUCCESS;
}
