// Cases that only the emulated device can produce: failures, missing devices, counts.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention_args.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/kernels/attention_testing.h"
#include "tests/kernels/cuda/cuda_testing.h"
#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"
#include "tests/support/sanitized.h"

namespace strata::kernels::cuda_faults_test {
namespace {

TEST(CudaFaultsTest, TheFirstErrorStaysAndSaysWhere) {
  const std::unique_ptr<Backend> backend = MakeCuda();
  BackendRows x(*backend, GuardedRows(4, 32, 1.0f));
  BackendRows out(*backend, GuardedRows(2, 32));
  const std::vector<int32_t> rows = {3, 1};
  EXPECT_TRUE(backend->Synchronize().ok());
  backend->GatherRows(x.rows(), rows, out.rows());  // allocates the list of rows
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
  EXPECT_TRUE((*ampere)->CheckWeights(MatrixFormat::kI8).ok());
  EXPECT_TRUE((*ampere)->CheckCache(PlaneFormat::kF8, PlaneFormat::kF16).ok());
  const absl::Status fp8 = (*ampere)->CheckWeights(MatrixFormat::kF8);
  EXPECT_EQ(fp8.code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(fp8.message(), "8.6, 9.0 is the least")) << fp8;
  cuda_on_cpu::SetDevices(1);
  EXPECT_TRUE(refusal().ok());
  EXPECT_TRUE(MakeCuda()->CheckWeights(MatrixFormat::kF8).ok());
}

// cuBLASLt has no plan for some shapes and types, which differ between devices: not an error.
TEST(CudaFaultsTest, AProductWithoutAPlanRunsOnKernelsOfOurOwnAndIsToldOfOnce) {
  const std::vector<float> weights = Random(1).Normals(48 * 96);
  const HostRows rows = {ElementType::kF32, reinterpret_cast<const std::byte*>(weights.data()), 48,
                         96};
  const std::vector<float> values = Random(2).Normals(20 * 96);
  for (const MatrixFormat dtype :
       {MatrixFormat::kBF16, MatrixFormat::kI8, MatrixFormat::kF8, MatrixFormat::kF32}) {
    std::vector<std::vector<float>> results;
    for (const bool refused : {true, false}) {
      const std::unique_ptr<Backend> backend = MakeCuda(/*batch_invariant=*/!refused);
      const std::unique_ptr<Matrix> w = *backend->Pack({&rows, 1}, dtype);
      BackendRows x(*backend, GuardedRows(20, 96, values));
      BackendRows out(*backend, GuardedRows(20, 48));
      if (refused) cuda_on_cpu::RefusePlans(9, 31);
      for (int i = 0; i < 2; ++i) {
        backend->MatMul(*w, x.rows(), {}, out.rows(), Backend::Store::kSet);
      }
      cuda_on_cpu::RefusePlans(1, 0);
      EXPECT_TRUE(backend->Synchronize().ok());
      results.push_back(out.Fetch().Values());
      const std::vector<std::string> notes = backend->TakeNotes();
      ASSERT_EQ(notes.size(), refused ? 1U : 0U);
      if (!refused) continue;
      EXPECT_TRUE(absl::StrContains(
          notes[0],
          absl::StrCat("no plan for 20 rows times a matrix of 48 outputs and 96 inputs in ",
                       std::string(FormatName(dtype)))))
          << notes[0];
      EXPECT_TRUE(backend->TakeNotes().empty());
    }
    EXPECT_EQ(results[0], results[1]);  // both use the batch-invariant kernels
  }
}

TEST(CudaFaultsTest, SaysWhyAttentionIsSlow) {
  const std::unique_ptr<Backend> backend = MakeCuda();
  const auto why = [&](int32_t head_dim, PlaneFormat keys, PlaneFormat values,
                       int32_t block_tokens) {
    PagedArena cache = {.block_tokens = block_tokens, .key_format = keys, .value_format = values};
    cache.place_bytes =
        static_cast<size_t>(block_tokens) * (cache.TokenBytes(PlaneKind::kKey, head_dim) +
                                             cache.TokenBytes(PlaneKind::kValue, head_dim));
    return backend->WhyAttentionIsSlow(cache, head_dim);
  };
  for (const int32_t head_dim : {32, 64, 128}) {
    for (const PlaneFormat dtype :
         {PlaneFormat::kBF16, PlaneFormat::kF16, PlaneFormat::kI8, PlaneFormat::kF8}) {
      EXPECT_EQ(why(head_dim, dtype, dtype, 32), "");
    }
  }
  for (const int32_t head_dim : {80, 96, 256}) {
    EXPECT_TRUE(absl::StrContains(why(head_dim, PlaneFormat::kBF16, PlaneFormat::kBF16, 32),
                                  absl::StrCat("heads have ", head_dim, " dimensions")));
  }
  EXPECT_TRUE(
      absl::StrContains(why(64, PlaneFormat::kF32, PlaneFormat::kF32, 32), "the cache is in f32"));
  EXPECT_TRUE(absl::StrContains(why(64, PlaneFormat::kI8, PlaneFormat::kBF16, 32),
                                "keys are kept in int8 and values in bf16"));
  EXPECT_TRUE(absl::StrContains(why(64, PlaneFormat::kI8, PlaneFormat::kI8, 5),
                                "a plane of 5 tokens takes 340 bytes"));
}

// After the first step of a kind nothing is allocated, on the device or pinned.
TEST(CudaFaultsTest, StepsAllocateNothing) {
  const Inputs inputs(32);
  const std::unique_ptr<Backend> backend = MakeCuda();
  const Cache cache(*backend, inputs, kBF16Cache, 16);
  const std::vector<float> weights(64 * 64, 0.5f);
  const HostRows rows = {ElementType::kF32, reinterpret_cast<const std::byte*>(weights.data()), 64,
                         64};
  const std::unique_ptr<Matrix> w = *backend->Pack({&rows, 1}, MatrixFormat::kBF16);
  BackendRows x(*backend, GuardedRows(20, 64, 1.0f));
  BackendRows out(*backend, GuardedRows(20, 64));
  const std::unique_ptr<Buffer> queries = Upload(*backend, inputs.queries);
  BackendRows attended(*backend, GuardedRows(inputs.total_rows, 32));
  const std::vector<SequenceRows> sequences = Cut(cache, 1000);
  const HeadAttention head = {.query = queries->floats(),
                              .query_stride = kHeads * 32,
                              .output = attended.At(0, 0),
                              .output_stride = attended.stride()};
  std::vector<PlaneGroup> groups =
      cache.Groups(std::vector<HeadAttention>(static_cast<size_t>(kHeads), head), 32);
  groups.resize(1);
  const auto step = [&] {
    for (const int64_t count : {20, 1}) {
      backend->MatMul(*w, x.row(0, count), {}, out.row(0, count), Backend::Store::kSet);
    }
    backend->Attention(cache.arena(), sequences, groups);
    EXPECT_TRUE(backend->Synchronize().ok());
  };
  step();
  const int64_t before = cuda_on_cpu::Allocations();
  for (int i = 0; i < 3; ++i) step();
  EXPECT_EQ(cuda_on_cpu::Allocations(), before);
}

template <class T>
const T* Put(cuda::Stream& stream, cuda::DeviceArray<T>& memory, const std::vector<T>& values) {
  T* const to = memory.Reserve(stream, values.size());
  stream.Copy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  return to;
}

// A grid has at most 65,535 blocks in its second and third dimension, and a prompt may have more
// rows, or 64 heads for each. Only one row exists here, so that the other blocks cost nothing.
TEST(CudaFaultsTest, PromptsMayHaveMoreRowsThanAGridIsHigh) {
  if (testing::kSanitized) GTEST_SKIP() << "millions of fibers";
  constexpr int32_t kDim = 32;
  constexpr int32_t kMost = 65536;
  cuda::Stream stream;
  stream.Open();
  cuda::DeviceArray<uint16_t> arena;  // holds a key of zeros and a value of 1.5
  cuda::DeviceArray<float> query, output;
  cuda::DeviceArray<cuda::SequenceEntry> sequence;
  cuda::DeviceArray<int32_t> table;
  std::vector<uint16_t> planes(kDim);
  planes.resize(2 * kDim, 0x3fc0);
  cuda::AttentionArgs args;
  args.arena = reinterpret_cast<const std::byte*>(Put(stream, arena, planes));
  args.place_bytes = 4 * kDim;
  args.head_dim = kDim;
  args.key_format = args.value_format = PlaneFormat::kBF16;
  args.sequences = Put(stream, sequence, {{.num_rows = 1}});
  args.tables = Put(stream, table, {0});
  args.num_sequences = args.num_heads = args.num_groups = 1;
  args.heads[0] = {.query = Put(stream, query, std::vector<float>(kDim, 1.0f)),
                   .output = output.Reserve(stream, kDim)};
  args.groups[0] = {.values = {.offset = 2 * kDim}, .num_heads = 1};
  const auto expect_row = [&] {
    std::vector<float> row(kDim);
    stream.Copy(row.data(), output.data(), sizeof(float) * kDim, cudaMemcpyDeviceToHost);
    stream.Wait();
    EXPECT_TRUE(stream.ok()) << stream.what();
    EXPECT_EQ(row, std::vector<float>(kDim, 1.5f));
    Put(stream, output, std::vector<float>(kDim));
  };
  cuda::AttendOnTensorCores(stream, args, {.query_tiles = kMost, .spans_per_run = INT32_MAX});
  expect_row();
  cuda::AttendGenerally(stream, args, kMost);
  expect_row();
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
