// Products of up to eight rows: reading the matrix is the whole cost.
//
// A block takes 16 outputs, each of its 8 warps a slice of the inputs. A lane's 16 bytes of a row
// of the matrix are neighbouring inputs, and its 16 bytes of a row of x the same inputs. An
// instruction may multiply the inputs in any order as long as both sides agree, so both go to the
// tensor cores as they come from memory. Quarter t of a warp's lanes has bytes 16t .. 16t + 15 of
// 64: the first instruction takes 16t .. 16t + 7, the second the rest.
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = kSlices * kWarp;
constexpr int kBlocks = 2;  // on a multiprocessor: registers must leave room for two
constexpr int kTurn = 4;    // groups of 64 bytes that a turn of the loop loads
constexpr int kRows = static_cast<int>(kFewRows);

struct Group {
  uint4 low;   // of output g
  uint4 high;  // of output g + 8
  uint4 x;     // of row g
};

template <class T>
__device__ __forceinline__ void MultiplyGroup(const Group& group, SumOf<T> (&sums)[4]) {
  const uint32_t first[4] = {group.low.x, group.high.x, group.low.y, group.high.y};
  const uint32_t first_x[2] = {group.x.x, group.x.y};
  MultiplyFragments<T>(sums, first, first_x);
  const uint32_t second[4] = {group.low.z, group.high.z, group.low.w, group.high.w};
  const uint32_t second_x[2] = {group.x.z, group.x.w};
  MultiplyFragments<T>(sums, second, second_x);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    FewRowsKernel(const __grid_constant__ Product product, int64_t first_row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int slice = static_cast<int>(threadIdx.x) / kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int64_t row_bytes = product.weights.stride * int64_t{sizeof(T)};
  const int groups = static_cast<int>(row_bytes / kGroupBytes);
  const int per_slice = (groups + kSlices - 1) / kSlices;
  const int begin = min(slice * per_slice, groups);
  const int end = min(begin + per_slice, groups);

  const int64_t output = static_cast<int64_t>(blockIdx.x) * kOutputGroup;
  const auto* const weights = static_cast<const std::byte*>(product.weights.data);
  const std::byte* const low = weights + (output + g) * row_bytes + 16 * t;
  const std::byte* const high = low + 8 * row_bytes;
  const bool has_row = first_row + g < product.out.num_rows;
  const std::byte* const x = static_cast<const std::byte*>(product.x) +
                             (first_row + (has_row ? g : 0)) * row_bytes + 16 * t;

  SumOf<T> sums[4] = {};
  const auto load = [&](int i) {
    const int64_t place = int64_t{i} * kGroupBytes;
    Group group;
    group.low = ptx::LoadStreamed(low + place);
    group.high = ptx::LoadStreamed(high + place);
    group.x = has_row ? *reinterpret_cast<const uint4*>(x + place) : make_uint4(0, 0, 0, 0);
    return group;
  };
  // Each turn loads the next turn's groups, then multiplies its own: two turns are in flight.
  int i = begin;
  Group now[kTurn];
  const int last = end - (end - begin) % kTurn;  // of whole turns
  if (i < last) {
#pragma unroll
    for (int k = 0; k < kTurn; ++k) now[k] = load(i + k);
  }
#pragma unroll 1
  for (; i < last; i += kTurn) {
    Group next[kTurn];
    if (i + kTurn < last) {
#pragma unroll
      for (int k = 0; k < kTurn; ++k) next[k] = load(i + kTurn + k);
    }
    __syncwarp();  // keeps the compiler from moving loads behind it, where registers are free
#pragma unroll
    for (int k = 0; k < kTurn; ++k) MultiplyGroup<T>(now[k], sums);
#pragma unroll
    for (int k = 0; k < kTurn; ++k) now[k] = next[k];
  }
#pragma unroll 1
  for (; i < end; ++i) MultiplyGroup<T>(load(i), sums);

  // [slice][row][output], a slice's outputs of a row side by side.
  auto* const shared = ptx::SharedMemory<SumOf<T>>();
  SumOf<T>* const mine = shared + slice * kRows * static_cast<int>(kOutputGroup);
  mine[(2 * t) * 16 + g] = sums[0];
  mine[(2 * t + 1) * 16 + g] = sums[1];
  mine[(2 * t) * 16 + g + 8] = sums[2];
  mine[(2 * t + 1) * 16 + g + 8] = sums[3];
  __syncthreads();
  const auto total = [&](int row, int column) {
    SumOf<T> sum = 0;
    for (int s = 0; s < kSlices; ++s) sum += shared[(s * kRows + row) * 16 + column];
    return sum;
  };
  const int row = static_cast<int>(threadIdx.x) / 16;
  const int column = static_cast<int>(threadIdx.x) % 16;
  if (row >= kRows) return;
  if (product.epilogue != Epilogue::kGate) {
    StoreSum<T>(product, first_row + row, output + column, total(row, column));
  } else if (column < 8) {
    StoreGated<T>(product, first_row + row, output + column, total(row, column),
                  total(row, column + 8));
  }
}

constexpr int kF32Threads = 128;

// One warp for each output (or a gate and its up), for kRows rows at a time.
__global__ void __launch_bounds__(kF32Threads)
    F32Kernel(const __grid_constant__ Product product, int64_t first_row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t result =
      static_cast<int64_t>(blockIdx.x) * (kF32Threads / kWarp) + threadIdx.x / kWarp;
  if (result >= product.out.num_cols) return;
  const bool gated = product.epilogue == Epilogue::kGate;
  const int64_t stored = gated ? result / 8 * 16 + result % 8 : result;
  const int64_t stride = product.weights.stride;
  const auto* const w = static_cast<const float*>(product.weights.data) + stored * stride;
  const auto* const x = static_cast<const float*>(product.x) + first_row * stride;
  const int64_t rows = min(kFewRows, product.out.num_rows - first_row);

  float sums[kRows] = {};
  float ups[kRows] = {};
  for (int64_t k = 4 * lane; k < stride; k += 4 * kWarp) {
    const float4 a = *reinterpret_cast<const float4*>(w + k);
    float4 b{};
    if (gated) b = *reinterpret_cast<const float4*>(w + 8 * stride + k);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows) continue;
      const float4 v = *reinterpret_cast<const float4*>(x + r * stride + k);
      sums[r] = fmaf(v.w, a.w, fmaf(v.z, a.z, fmaf(v.y, a.y, fmaf(v.x, a.x, sums[r]))));
      if (gated) ups[r] = fmaf(v.w, b.w, fmaf(v.z, b.z, fmaf(v.y, b.y, fmaf(v.x, b.x, ups[r]))));
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= rows) continue;
    const float sum = WarpSum(sums[r]);
    const float up = gated ? WarpSum(ups[r]) : 0.0f;
    if (lane != 0) continue;
    if (gated) {
      StoreGated<float>(product, first_row + r, stored, sum, up);
    } else {
      StoreSum<float>(product, first_row + r, result, sum);
    }
  }
}

}  // namespace

void MultiplyFewRows(Stream& stream, const Product& product) {
  constexpr size_t kShared = sizeof(float) * kSlices * kRows * kOutputGroup;  // or of int32_t
  const dim3 grid(static_cast<uint32_t>(product.weight_rows / kOutputGroup));
  WithFragments(product.weights.format, [&]<class T>() {
    for (int64_t row = 0; row < product.out.num_rows; row += kFewRows) {
      stream.Launch("MultiplyFewRows", grid, dim3(kThreads), kShared, FewRowsKernel<T>, product,
                    row);
    }
  });
}

void MultiplyF32(Stream& stream, const Product& product) {
  constexpr int64_t kWarps = kF32Threads / kWarp;
  const dim3 grid(static_cast<uint32_t>((product.out.num_cols + kWarps - 1) / kWarps));
  for (int64_t row = 0; row < product.out.num_rows; row += kFewRows) {
    stream.Launch("MultiplyF32", grid, dim3(kF32Threads), 0, F32Kernel, product, row);
  }
}

}  // namespace strata::kernels::cuda
