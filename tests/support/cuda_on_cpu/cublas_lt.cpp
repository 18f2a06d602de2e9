#include <cstdio>
#include <cstdlib>

#include "tests/support/cuda_on_cpu/cublasLt.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/support/cuda_on_cpu/kernels/cuda/ptx.cuh"

namespace {

namespace ptx = strata::kernels::ptx;

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

// Element (row, column) of a matrix whose columns follow one another.
float At(const void* data, const MatrixLayoutOnCpu& layout, uint64_t row, uint64_t column) {
  const size_t index = row + column * static_cast<uint64_t>(layout.ld);
  switch (layout.type) {
    case CUDA_R_32F:
      break;
    case CUDA_R_16BF:
      return std::bit_cast<float>(uint32_t{static_cast<const uint16_t*>(data)[index]} << 16);
    case CUDA_R_16F:
      return ptx::FloatFromF16(static_cast<const uint16_t*>(data)[index]);
    case CUDA_R_8F_E4M3:
      return ptx::FloatFromE4M3(static_cast<const uint8_t*>(data)[index]);
    case CUDA_R_8I:
      return static_cast<const int8_t*>(data)[index];
    case CUDA_R_32I:
      std::abort();  // never an input of a product
  }
  return static_cast<const float*>(data)[index];
}

// Whether a device would accept the shapes. In 8 bits a device takes the first transposed and the
// second not, in whole 16 bytes.
bool Fits(const MatmulDescOnCpu& desc, const MatrixLayoutOnCpu& a, const MatrixLayoutOnCpu& b,
          const MatrixLayoutOnCpu& d) {
  const bool transposed = desc.transa == CUBLAS_OP_T;
  const uint64_t inputs = transposed ? a.rows : a.cols;
  const uint64_t outputs = transposed ? a.cols : a.rows;
  const bool exact = a.type == CUDA_R_8I;
  const bool bytes = exact || a.type == CUDA_R_8F_E4M3;
  if (bytes && (!transposed || inputs % 16 != 0 || outputs % 16 != 0 || a.ld % 16 != 0))
    return false;
  return a.type == b.type && d.type == (exact ? CUDA_R_32I : CUDA_R_32F) && desc.scale == d.type &&
         desc.compute == (exact ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F) && inputs == b.rows &&
         outputs == d.rows && b.cols == d.cols && a.ld >= static_cast<int64_t>(a.rows) &&
         b.ld >= static_cast<int64_t>(b.rows) && d.ld >= static_cast<int64_t>(d.rows);
}

int64_t g_refused_first = 1;
int64_t g_refused_last = 0;

}  // namespace

void cuda_on_cpu::RefusePlans(int64_t first, int64_t last) {
  g_refused_first = first;
  g_refused_last = last;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return Make(handle); }
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) { return Destroy(handle); }
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  return Make(desc, compute, scale);
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
  const auto rows = static_cast<int64_t>(d->cols);
  if (rows >= g_refused_first && rows <= g_refused_last) return CUBLAS_STATUS_NOT_SUPPORTED;
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
  // Integers below 2^24 are floats too, so one loop does both: sums in tests are no larger.
  const bool exact = d_layout->type == CUDA_R_32I;
  const float times = exact ? static_cast<float>(*static_cast<const int32_t*>(alpha))
                            : *static_cast<const float*>(alpha);
  const float kept = exact ? static_cast<float>(*static_cast<const int32_t*>(beta))
                           : *static_cast<const float*>(beta);
  if (exact && (times != 1 || kept != 0)) return CUBLAS_STATUS_NOT_SUPPORTED;
  cuda_on_cpu::Enqueue(
      stream, [=, desc = *desc, la = *a_layout, lb = *b_layout, lc = *c_layout, ld = *d_layout] {
        const uint64_t inputs = lb.rows;
        for (uint64_t column = 0; column < ld.cols; ++column) {
          for (uint64_t row = 0; row < ld.rows; ++row) {
            float sum = 0;
            int64_t exact_sum = 0;
            for (uint64_t k = 0; k < inputs; ++k) {
              const float left = desc.transa == CUBLAS_OP_T ? At(a, la, k, row) : At(a, la, row, k);
              const float product = left * At(b, lb, k, column);
              if (exact) exact_sum += static_cast<int64_t>(product);
              sum += product;
            }
            const size_t place = row + column * static_cast<uint64_t>(ld.ld);
            if (exact) {
              static_cast<int32_t*>(d)[place] = static_cast<int32_t>(exact_sum);
              continue;
            }
            sum *= times;
            if (kept != 0) sum += kept * At(c, lc, row, column);
            static_cast<float*>(d)[place] = sum;
          }
        }
      });
  return CUBLAS_STATUS_SUCCESS;
}
