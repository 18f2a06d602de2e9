// What only a device that is none can be made to do: fail, be missing, count.

#include "absl/strings/match.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"

namespace strata::kernels::cuda_faults_test {
namespace {

TEST(CudaFaultsTest, TheFirstErrorStaysAndSaysWhere) {
  const std::unique_ptr<Backend> backend = MakeCuda();
  BackendRows x(*backend, GuardedRows(4, 32, 1.0f));
  BackendRows out(*backend, GuardedRows(2, 32));
  const std::vector<int32_t> rows = {3, 1};
  EXPECT_TRUE(backend->Synchronize().ok());
  backend->GatherRows(x.rows(), rows, out.rows());  // the list of rows is there from now on
  cuda_on_cpu::SetFault(cudaErrorIllegalAddress);
  backend->GatherRows(x.rows(), rows, out.rows());
  const absl::Status status = backend->Synchronize();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StrContains(status.message(), "an illegal memory access")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "Gather")) << status;
  cuda_on_cpu::SetFault(cudaSuccess);
  const int64_t launches = cuda_on_cpu::Launches();
  backend->GatherRows(x.rows(), rows, out.rows());
  EXPECT_EQ(cuda_on_cpu::Launches(), launches) << "nothing runs after an error";
  EXPECT_EQ(backend->Synchronize(), status);
  EXPECT_EQ(backend->Allocate(10).status(), status);
}

TEST(CudaFaultsTest, SaysWhatItMisses) {
  const auto refusal = [] { return cuda::CudaBackend::Create({}).status(); };
  cuda_on_cpu::SetDevices(0);
  EXPECT_EQ(refusal().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(refusal().message(), "no CUDA-capable device")) << refusal();
  cuda_on_cpu::SetDevices(1, 7, 5);
  EXPECT_EQ(refusal().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(refusal().message(), "7.5, 8.0 is the least")) << refusal();
  cuda_on_cpu::SetDevices(1, 8, 6);
  const auto ampere = cuda::CudaBackend::Create({});
  ASSERT_TRUE(ampere.ok()) << ampere.status();
  EXPECT_TRUE((*ampere)->CheckWeights(DType::kI8).ok());
  EXPECT_TRUE((*ampere)->CheckCache(DType::kF8, DType::kF16).ok());
  const absl::Status fp8 = (*ampere)->CheckWeights(DType::kF8);
  EXPECT_EQ(fp8.code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(fp8.message(), "8.6, 9.0 is the least")) << fp8;
  cuda_on_cpu::SetDevices(1);
  EXPECT_TRUE(refusal().ok());
  EXPECT_TRUE(MakeCuda()->CheckWeights(DType::kF8).ok());
}

// After the first step of a kind nothing is allocated, on the device or pinned.
TEST(CudaFaultsTest, StepsAllocateNothing) {
  const Inputs inputs(32);
  const std::unique_ptr<Backend> backend = MakeCuda();
  const Cache cache(*backend, inputs, kBF16Cache, 16);
  const std::vector<float> weights(64 * 64, 0.5f);
  const HostRows rows = {DType::kF32, reinterpret_cast<const std::byte*>(weights.data()), 64, 64};
  const std::unique_ptr<Matrix> w = *backend->Pack({&rows, 1}, DType::kBF16);
  BackendRows x(*backend, GuardedRows(20, 64, 1.0f));
  BackendRows out(*backend, GuardedRows(20, 64));
  const std::unique_ptr<Buffer> queries = Upload(*backend, inputs.queries);
  BackendRows attended(*backend, GuardedRows(inputs.total_rows, 32));
  const std::vector<SequenceRows> sequences = Cut(cache, 1000);
  const HeadAttention head = {.query = queries->floats(),
                              .query_stride = kHeads * 32,
                              .key_offset = cache.KeyOffset(0),
                              .value_offset = cache.ValueOffset(0),
                              .output = attended.At(0, 0),
                              .output_stride = attended.stride()};
  const auto step = [&] {
    for (const int64_t count : {20, 1}) {
      backend->MatMul(*w, x.row(0, count), {}, out.row(0, count), Backend::Store::kSet);
    }
    backend->Attention(cache.arena(), sequences, {&head, 1});
    EXPECT_TRUE(backend->Synchronize().ok());
  };
  step();
  const int64_t before = cuda_on_cpu::Allocations();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(cuda_on_cpu::Allocations(), before);
}

TEST(CudaFaultsTest, GivesItsMemoryBack) {
  const size_t before = cuda_on_cpu::BytesInUse();
  {
    const Inputs inputs(32);
    const std::unique_ptr<Backend> backend = MakeCuda();
    const Cache cache(*backend, inputs, kBF16Cache, 16);
    Attend(*backend, inputs, cache, 1, true);
    EXPECT_GT(cuda_on_cpu::BytesInUse(), before);
  }
  EXPECT_EQ(cuda_on_cpu::BytesInUse(), before);
}

}  // namespace
}  // namespace strata::kernels::cuda_faults_test
