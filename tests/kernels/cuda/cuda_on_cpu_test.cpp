// Checks the emulated device against CUDA's manuals: the other tests rely on it.

#include "tests/support/cuda_on_cpu/cuda_on_cpu.h"

#include <cmath>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/paging.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"
#include "tests/kernels/kernel_testing.h"

namespace strata::kernels::cuda_on_cpu_test {
namespace {

using cuda::DeviceArray;
using cuda::kWarp;
using cuda::Stream;

// Runs a kernel of one block on floats and returns them.
std::vector<float> RunBlock(void (*kernel)(float*), std::vector<float> values, uint32_t threads,
                            size_t shared_bytes = 0) {
  Stream stream;
  stream.Open();
  DeviceArray<float> memory;
  float* const data = memory.Reserve(stream, values.size());
  stream.Copy(data, values.data(), values.size() * sizeof(float), cudaMemcpyHostToDevice);
  stream.Launch("test", dim3(1), dim3(threads), shared_bytes, kernel, data);
  stream.Copy(values.data(), data, values.size() * sizeof(float), cudaMemcpyDeviceToHost);
  stream.Wait();
  EXPECT_TRUE(stream.ok()) << stream.what();
  return values;
}

// Reads a [16][k] and b [k][8] row by row, then c [16][8]: c += a b. Neighbouring numbers share
// words of 4 bytes.
template <class T>
void MmaKernel(float* data) {
  constexpr int kSide = 4 / sizeof(T);
  constexpr int kInputs = 8 * kSide;
  const int lane = static_cast<int>(threadIdx.x);
  const int g = lane / 4;
  const int t = lane % 4;
  const auto word = [&](auto element) {
    T numbers[kSide];
    for (int i = 0; i < kSide; ++i) numbers[i] = cuda::FromFloat<T>(element(i));
    uint32_t bits;
    std::memcpy(&bits, numbers, sizeof(bits));
    return bits;
  };
  uint32_t left[4];
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i % 2);
    const int k = kSide * (t + 4 * (i / 2));
    left[i] = word([&](int j) { return data[row * kInputs + k + j]; });
  }
  uint32_t right[2];
  for (int i = 0; i < 2; ++i) {
    const int k = kSide * (t + 4 * i);
    right[i] = word([&](int j) { return data[16 * kInputs + (k + j) * 8 + g]; });
  }
  float* const c = data + 24 * kInputs;
  cuda::SumOf<T> sums[4];
  const auto place = [&](int i) { return (g + 8 * (i / 2)) * 8 + 2 * t + i % 2; };
  for (int i = 0; i < 4; ++i) sums[i] = static_cast<cuda::SumOf<T>>(c[place(i)]);
  cuda::MultiplyFragments<T>(sums, left, right);
  for (int i = 0; i < 4; ++i) c[place(i)] = static_cast<float>(sums[i]);
}

template <class T>
void ExpectMultiplies(size_t inputs) {
  std::vector<float> data = Random(1).Normals(static_cast<int64_t>(24 * inputs) + 128, 9.0f);
  for (float& value : data) value = cuda::ToFloat(cuda::FromFloat<T>(value));
  const std::vector<float> out = RunBlock(MmaKernel<T>, data, kWarp);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      double sum = data[24 * inputs + row * 8 + column];
      for (size_t k = 0; k < inputs; ++k) {
        sum += data[row * inputs + k] * data[16 * inputs + k * 8 + column];
      }
      EXPECT_NEAR(out[24 * inputs + row * 8 + column], sum, 1e-3);
    }
  }
}
TEST(CudaOnCpuTest, MatrixInstructionsMultiply) {
  ExpectMultiplies<cuda::BF16>(16);
  ExpectMultiplies<cuda::F16>(16);
  ExpectMultiplies<cuda::Int8>(32);
  ExpectMultiplies<cuda::E4M3>(32);
}

// Tries every number of a format, the value halfway to the next, and values on either side of it.
template <class T>
void ExpectRoundsToNearest(const Codes& codes) {
  const auto expect = [&](float value) {
    ASSERT_EQ(cuda::FromFloat<T>(value).bits, NearestCode(codes, value)) << value;
    ASSERT_EQ(cuda::ToFloat(cuda::FromFloat<T>(value)), NearestOf(codes, value));
  };
  for (uint32_t code = 0; code < codes.last; ++code) {
    const float low = codes.decode(code);
    const float half = (low + codes.decode(code + 1)) / 2;
    for (const float value : {low, std::nextafter(half, 0.0f), half, std::nextafter(half, 1e9f)}) {
      expect(value);
      expect(-value);
    }
  }
  expect(codes.decode(codes.last));
}
TEST(CudaOnCpuTest, NumbersAreTheNearest) {
  ExpectRoundsToNearest<cuda::F16>(kF16Codes);
  ExpectRoundsToNearest<cuda::E4M3>(kE4M3Codes);
  EXPECT_EQ(cuda::ToFloat(cuda::FromFloat<cuda::E4M3>(1e9f)), 448);
  EXPECT_EQ(cuda::ToFloat(cuda::FromFloat<cuda::F16>(65520.0f)), INFINITY);
  for (int q = -127; q <= 127; ++q) {
    const auto number = static_cast<float>(q);
    EXPECT_EQ(cuda::ToFloat(cuda::FromFloat<cuda::Int8>(number)), number);
  }
}

// 32 rows of 8 two-byte numbers: number 8 row + column. Returns each lane's loads.
template <bool kTransposed>
void LoadKernel(float* data) {
  auto* const numbers = ptx::SharedMemory<uint16_t>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int j = 0; j < 8; ++j) numbers[lane * 8 + j] = static_cast<uint16_t>(lane * 8 + j);
  __syncthreads();
  uint32_t loaded[4];
  if constexpr (kTransposed) {
    ptx::LoadMatricesTransposed(loaded, numbers + lane * 8);
  } else {
    ptx::LoadMatrices(loaded, numbers + lane * 8);
  }
  for (int m = 0; m < 4; ++m) {
    data[lane * 8 + 2 * m] = static_cast<float>(loaded[m] & 0xffffu);
    data[lane * 8 + 2 * m + 1] = static_cast<float>(loaded[m] >> 16);
  }
}

TEST(CudaOnCpuTest, MatricesAreLoadedAsFragments) {
  const std::vector<float> plain = RunBlock(LoadKernel<false>, std::vector<float>(256), kWarp, 512);
  const std::vector<float> turned = RunBlock(LoadKernel<true>, std::vector<float>(256), kWarp, 512);
  for (size_t lane = 0; lane < 32; ++lane) {
    const size_t g = lane / 4;
    const size_t t = lane % 4;
    for (size_t m = 0; m < 4; ++m) {
      for (size_t i = 0; i < 2; ++i) {
        const size_t at = lane * 8 + 2 * m + i;
        EXPECT_EQ(plain[at], static_cast<float>((8 * m + g) * 8 + 2 * t + i));
        EXPECT_EQ(turned[at], static_cast<float>((8 * m + 2 * t + i) * 8 + g));
      }
    }
  }
}

// A copy has arrived after the wait for it, not before; an invalid one is zeros.
void CopyKernel(float* data) {
  auto* const shared = ptx::SharedMemory<float>();
  if (threadIdx.x > 0) return;
  ptx::CopyAsync16(shared, data, true);
  ptx::CommitCopies();
  ptx::CopyAsync16(shared + 4, data + 4, false);
  ptx::CopyAsync4(shared + 8, data + 8, true);
  ptx::CommitCopies();
  float seen[4] = {};
  ptx::WaitCopies<1>();
  seen[0] = shared[0];
  seen[1] = shared[8];
  ptx::WaitCopies<0>();
  seen[2] = shared[4];
  seen[3] = shared[8];
  for (int i = 0; i < 4; ++i) data[i] = seen[i];
}

TEST(CudaOnCpuTest, CopiesArriveWhenTheyAreWaitedFor) {
  std::vector<float> data(12);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i + 1);
  const std::vector<float> out = RunBlock(CopyKernel, data, 1, 64);
  EXPECT_EQ(out[0], 1);
  EXPECT_TRUE(std::isnan(out[1])) << "shared memory is full of NaN";
  EXPECT_EQ(out[2], 0);
  EXPECT_EQ(out[3], 9);
}

void SumKernel(float* data) {
  auto* const shared = ptx::SharedMemory<float>();
  const float sum = cuda::BlockSum<96>(data[threadIdx.x], shared);
  const float most = cuda::BlockMax<96>(data[threadIdx.x], shared);
  data[threadIdx.x] = threadIdx.x % 2 == 0 ? sum : most;
}

TEST(CudaOnCpuTest, BlocksAddUpInAnyOrder) {
  std::vector<float> data(96);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i);
  using cuda_on_cpu::Order;
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    cuda_on_cpu::SetOrder(order, 3);
    const std::vector<float> out = RunBlock(SumKernel, data, 96, 12);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i % 2 == 0 ? 95 * 96 / 2 : 95);
  }
  cuda_on_cpu::SetOrder(Order::kForward);
}

// A race between two barriers: the value that thread 0 reads depends on the order of the threads.
void RaceKernel(float* data) {
  if (threadIdx.x == 1) data[1] = 7;
  if (threadIdx.x == 0) data[0] = data[1];
}

TEST(CudaOnCpuTest, RacesShowInTheOrderOfThreads) {
  cuda_on_cpu::SetOrder(cuda_on_cpu::Order::kForward);
  const float forward = RunBlock(RaceKernel, {0, 0}, 2)[0];
  cuda_on_cpu::SetOrder(cuda_on_cpu::Order::kBackward);
  const float backward = RunBlock(RaceKernel, {0, 0}, 2)[0];
  cuda_on_cpu::SetOrder(cuda_on_cpu::Order::kForward);
  EXPECT_EQ(forward, 0);
  EXPECT_EQ(backward, 7);
}

void MissedBarrierKernel(float*) {
  if (threadIdx.x != 3) __syncthreads();
}
void MixedMeetingKernel(float* data) {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    data[0] = __shfl_sync(cuda::kWholeWarp, data[0], 0);
  }
}
void CopyLeftKernel(float* data) {
  ptx::CopyAsync16(ptx::SharedMemory<float>(), data, true);
  ptx::CommitCopies();
}

TEST(CudaOnCpuDeathTest, WhatThreadsMustAgreeOnIsChecked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunBlock(MissedBarrierKernel, {0}, 64), "never come|has ended");
  EXPECT_DEATH(RunBlock(MixedMeetingKernel, {0}, 32), "meet for different things");
  EXPECT_DEATH(RunBlock(CopyLeftKernel, std::vector<float>(4), 1, 16), "copies under way");
}

// data: device memory aligned to 256 bytes. A device refuses each of these addresses.
void MisalignedCopyKernel(float* data) {
  ptx::CopyAsync16(ptx::SharedMemory<float>(), data + 1, true);
}
void MisalignedSharedCopyKernel(float* data) {
  ptx::CopyAsync16(ptx::SharedMemory<float>() + 2, data, true);
}
void MisalignedSmallCopyKernel(float* data) {
  ptx::CopyAsync4(ptx::SharedMemory<float>(), reinterpret_cast<std::byte*>(data) + 2, true);
}
void MisalignedMatricesKernel(float* data) {
  uint32_t fragments[4];
  ptx::LoadMatrices(fragments, data + threadIdx.x);
}
void MisalignedTransposedKernel(float* data) {
  uint32_t fragments[4];
  ptx::LoadMatricesTransposed(fragments, data + threadIdx.x);
}
void MisalignedStreamedKernel(float* data) {
  data[0] = __uint_as_float(ptx::LoadStreamed(data + 2).x);
}
void MisalignedVectorLoadKernel(float* data) {
  data[0] = reinterpret_cast<const float4*>(data + 2)->y;
}
void MisalignedVectorStoreKernel(float* data) {
  *reinterpret_cast<float2*>(data + 1) = make_float2(1, 2);
}

TEST(CudaOnCpuDeathTest, AddressesMustBeAligned) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::vector<float> data(64);
  const auto run = [&](auto kernel, uint32_t threads = 1) { RunBlock(kernel, data, threads, 64); };
  EXPECT_DEATH(run(MisalignedCopyKernel), "cp.async from: address not aligned to 16");
  EXPECT_DEATH(run(MisalignedSharedCopyKernel), "cp.async to: address not aligned to 16");
  EXPECT_DEATH(run(MisalignedSmallCopyKernel), "cp.async from: address not aligned to 4");
  EXPECT_DEATH(run(MisalignedMatricesKernel, 32), "ldmatrix: address not aligned to 16");
  EXPECT_DEATH(run(MisalignedTransposedKernel, 32), "ldmatrix.trans: address not aligned to 16");
  EXPECT_DEATH(run(MisalignedStreamedKernel), "ld.global.v4: address not aligned to 16");
  EXPECT_DEATH(run(MisalignedVectorLoadKernel), "misaligned address .* requires 16 byte");
  EXPECT_DEATH(run(MisalignedVectorStoreKernel), "misaligned address .* requires 8 byte");
}

// Work in a stream happens when the host waits for it.
TEST(CudaOnCpuTest, StreamsRunWhenTheyAreWaitedFor) {
  Stream stream;
  stream.Open();
  float* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(float)), cudaSuccess);
  DeviceArray<float> memory;
  *pinned = 1;
  stream.Copy(memory.Reserve(stream, 1), pinned, sizeof(float), cudaMemcpyHostToDevice);
  *pinned = 2;  // too early: the copy has not been made
  float back = 0;
  stream.Copy(&back, memory.data(), sizeof(float), cudaMemcpyDeviceToHost);
  stream.Wait();
  EXPECT_EQ(back, 2);
  cudaFreeHost(pinned);
}

TEST(CudaOnCpuTest, LaunchesThatADeviceWouldRefuse) {
  Stream stream;
  stream.Open();
  stream.Launch("too much", dim3(1), dim3(1), size_t{60} << 10, RaceKernel, nullptr);
  EXPECT_EQ(stream.error(), cudaErrorInvalidValue);
}

// Page addressing and runs of spans, shared by host and device.
TEST(PagingTest, PlacesRunsAndWeights) {
  const int32_t table[] = {7, 3, 9};
  const cuda::CachePlace place = cuda::PlaceOf(37, table, 16);
  EXPECT_EQ(place.block, 9);
  EXPECT_EQ(place.token, 5);
  EXPECT_EQ(cuda::ScoreIndex(place, 3, 2, 16), (9U * 3 + 2) * 16 + 5);
  EXPECT_EQ(cuda::TokenStride(1, 6), 8U);
  EXPECT_EQ(cuda::TokenStride(2, 6), 12U);
  EXPECT_EQ(cuda::SpansOf(1), 1);
  EXPECT_EQ(cuda::SpansOf(256), 1);
  EXPECT_EQ(cuda::SpansOf(257), 2);
  // Runs of any length cover every span once; runs beyond the last span are empty.
  for (const int32_t spans : {1, 5, 8}) {
    for (const int32_t each : {1, 3, 8, 100}) {
      int32_t next = 0;
      for (int32_t run = 0; run < 10; ++run) {
        const cuda::SpanRun found = cuda::RunOf(run, each, spans);
        EXPECT_EQ(found.begin, std::min(next, spans));
        EXPECT_LE(found.end - found.begin, each);
        next = found.end;
      }
      EXPECT_EQ(next, spans);
    }
  }
  const cuda::MergeWeights nothing = cuda::Weigh(-INFINITY, -INFINITY);
  EXPECT_EQ(nothing.kept, 0);
  EXPECT_EQ(nothing.added, 0);
  const cuda::MergeWeights first = cuda::Weigh(-INFINITY, 3);
  EXPECT_EQ(first.most, 3);
  EXPECT_EQ(first.kept, 0);
  EXPECT_EQ(first.added, 1);
  const cuda::MergeWeights both = cuda::Weigh(3, 1);
  EXPECT_EQ(both.kept, 1);
  EXPECT_NEAR(both.added, std::exp(-2.0), 1e-7);
}

}  // namespace
}  // namespace strata::kernels::cuda_on_cpu_test
