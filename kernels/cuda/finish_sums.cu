// Finishes products whose sums another library made.
#include "kernels/cuda/epilogue.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One thread for each result.
template <class T>
__global__ void FinishSumsKernel(const __grid_constant__ Product product, const SumOf<T>* sums) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= product.out.num_cols) return;
  const int64_t row = blockIdx.x;
  const SumOf<T>* const of_row = sums + row * product.weight_rows;
  if (product.epilogue == Epilogue::kGate) {
    const int64_t stored = column / 8 * 16 + column % 8;
    StoreGated<T>(product, row, stored, of_row[stored], of_row[stored + 8]);
  } else {
    StoreSum<T>(product, row, column, of_row[column]);
  }
}

}  // namespace

void FinishSums(Stream& stream, const Product& product, const void* sums) {
  const auto columns = static_cast<uint32_t>((product.out.num_cols + kThreads - 1) / kThreads);
  WithNumbers(product.weights.format, [&]<class T>() {
    stream.Launch("FinishSums", dim3(static_cast<uint32_t>(product.out.num_rows), columns),
                  dim3(kThreads), 0, FinishSumsKernel<T>, product,
                  static_cast<const SumOf<T>*>(sums));
  });
}

}  // namespace strata::kernels::cuda
