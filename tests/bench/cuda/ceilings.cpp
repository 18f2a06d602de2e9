#include "tests/bench/cuda/ceilings.h"

#include <random>
#include <vector>

#include "cublasLt.h"
#include "tests/bench/cuda/timing.h"

namespace strata::testing {
namespace {

constexpr int64_t kSize = 8192;
constexpr size_t kWorkspace = size_t{64} << 20;

// Numbers of either sign, finite and of moderate size in each of the types: the exponent's high
// bits are those of numbers about 1 and below.
std::vector<uint8_t> RandomNumbers(cudaDataType_t type, size_t count) {
  std::mt19937 random(1);
  if (type == CUDA_R_8I || type == CUDA_R_8F_E4M3) {
    std::vector<uint8_t> numbers(count);
    const uint8_t mask = type == CUDA_R_8I ? 0xff : 0xbf;  // e4m3: below 2
    for (uint8_t& number : numbers) number = static_cast<uint8_t>(random() & mask);
    return numbers;
  }
  std::vector<uint8_t> numbers(2 * count);
  for (size_t i = 0; i < count; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    const uint32_t number = type == CUDA_R_16BF
                                ? (bits & 0x807f) | (0x3e80 + (bits >> 16 & 0x100))  // 1/4 .. 2
                                : (bits & 0x83ff) | (0x3400 + (bits >> 16 & 0x800));
    numbers[2 * i] = static_cast<uint8_t>(number);
    numbers[2 * i + 1] = static_cast<uint8_t>(number >> 8);
  }
  return numbers;
}

// 10^9 operations a second of out^T = w x^T, all kSize in every direction; 0 if cuBLASLt has no
// plan for it.
double ProductGops(cudaStream_t stream, cudaDataType_t type) {
  constexpr auto kCount = static_cast<size_t>(kSize * kSize);
  const bool exact = type == CUDA_R_8I;
  const cudaDataType_t sums = exact ? CUDA_R_32I : CUDA_R_32F;
  const std::vector<uint8_t> numbers = RandomNumbers(type, kCount);
  const Memory<uint8_t> w(numbers.size());
  const Memory<uint8_t> x(numbers.size());
  const Memory<float> out(kCount);
  const Memory<uint8_t> workspace(kWorkspace);
  for (uint8_t* to : {w.data(), x.data()}) {
    Require(cudaMemcpy(to, numbers.data(), numbers.size(), cudaMemcpyHostToDevice), "a copy");
  }
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t of_inputs = nullptr;
  cublasLtMatrixLayout_t of_sums = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  const size_t most = kWorkspace;
  cublasLtCreate(&handle);
  cublasLtMatmulDescCreate(&operation, exact ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, sums);
  cublasLtMatmulDescSetAttribute(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                 sizeof(transposed));
  cublasLtMatrixLayoutCreate(&of_inputs, type, kSize, kSize, kSize);
  cublasLtMatrixLayoutCreate(&of_sums, sums, kSize, kSize, kSize);
  cublasLtMatmulPreferenceCreate(&preference);
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                       sizeof(most));
  cublasLtMatmulHeuristicResult_t plan = {};
  int plans = 0;
  const cublasStatus_t found = cublasLtMatmulAlgoGetHeuristic(
      handle, operation, of_inputs, of_inputs, of_sums, of_sums, preference, 1, &plan, &plans);
  double gops = 0;
  if (found == CUBLAS_STATUS_SUCCESS && plans > 0) {
    const float one = 1;
    const float zero = 0;
    const int32_t exact_one = 1;
    const int32_t exact_zero = 0;
    const void* const alpha = exact ? static_cast<const void*>(&exact_one) : &one;
    const void* const beta = exact ? static_cast<const void*>(&exact_zero) : &zero;
    const double seconds = DeviceSeconds(stream, 10, [&] {
      cublasLtMatmul(handle, operation, alpha, w.data(), of_inputs, x.data(), of_inputs, beta,
                     out.data(), of_sums, out.data(), of_sums, &plan.algo, workspace.data(), most,
                     stream);
    });
    Require(cudaGetLastError(), "a product of cuBLASLt");
    const auto size = static_cast<double>(kSize);
    gops = 2e-9 * size * size * size / seconds;
  }
  cublasLtMatmulPreferenceDestroy(preference);
  cublasLtMatrixLayoutDestroy(of_sums);
  cublasLtMatrixLayoutDestroy(of_inputs);
  cublasLtMatmulDescDestroy(operation);
  cublasLtDestroy(handle);
  return gops;
}

}  // namespace

double CopyGbps(size_t bytes) {
  cudaStream_t stream = nullptr;
  Require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  const Memory<std::byte> from(bytes);
  const Memory<std::byte> to(bytes);
  Require(cudaMemset(from.data(), 0x5a, bytes), "filling memory");
  const double seconds = DeviceSeconds(stream, bytes > (size_t{1} << 30) ? 5 : 20, [&] {
    Require(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream),
            "a copy");
  });
  cudaStreamDestroy(stream);
  return 2e-9 * static_cast<double>(bytes) / seconds;
}

}  // namespace strata::testing

__attribute__((visibility("default"))) void strata_cuda_ceilings(size_t copy_bytes,
                                                                 StrataCudaCeilings* ceilings) {
  using namespace strata::testing;  // NOLINT(google-build-using-namespace): all of it is used
  Require(cudaSetDevice(0), "taking the device");
  cudaStream_t stream = nullptr;
  Require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  ceilings->copy_gbps = CopyGbps(copy_bytes);
  ceilings->bf16_gflops = ProductGops(stream, CUDA_R_16BF);
  ceilings->f16_gflops = ProductGops(stream, CUDA_R_16F);
  ceilings->int8_gops = ProductGops(stream, CUDA_R_8I);
  ceilings->fp8_gflops = ProductGops(stream, CUDA_R_8F_E4M3);
  cudaStreamDestroy(stream);
}
