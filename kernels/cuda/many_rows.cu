// Products of many rows in the order of sums of few_rows.cu, so that a row's bits do not depend on
// the number of rows. A block takes 128 outputs times 64 rows, a warp 32 times 32 of them. Inputs
// travel through shared memory, 64 bytes at a time, several groups ahead of the group that is
// multiplied.
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kBlockOutputs = 128;
constexpr int kBlockRows = 64;
constexpr int kThreads = 256;  // 4 warps along the outputs, 2 along the rows
constexpr int kStages = 4;
constexpr int kStageBytes = (kBlockOutputs + kBlockRows) * static_cast<int>(kGroupBytes);
constexpr int kOutputTiles = 2;  // of 16, a warp's
constexpr int kRowTiles = 4;     // of 8

// Starts copies of group `group` of the block's outputs and rows: 16 bytes of 768 for each thread,
// three times. Outputs and rows beyond the end are zeros.
__device__ __forceinline__ void AskFor(const Product& product, int64_t row_bytes, int64_t group,
                                       int64_t first_output, int64_t first_row, std::byte* stage) {
  const int chunk = static_cast<int>(threadIdx.x) % 4;
  for (int line = static_cast<int>(threadIdx.x) / 4; line < kBlockOutputs + kBlockRows;
       line += kThreads / 4) {
    const bool is_weight = line < kBlockOutputs;
    const int64_t row = is_weight ? first_output + line : first_row + line - kBlockOutputs;
    const bool valid = group * kGroupBytes < row_bytes &&
                       row < (is_weight ? product.weight_rows : product.out.num_rows);
    const auto* const from =
        static_cast<const std::byte*>(is_weight ? product.weights.data : product.x);
    ptx::CopyAsync16(stage + line * kGroupBytes + chunk * 16,
                     valid ? from + row * row_bytes + group * kGroupBytes + chunk * 16 : from,
                     valid);
  }
}

template <class T>
struct Sums {
  SumOf<T> of[kOutputTiles][kRowTiles][4] = {};
};

template <class T>
__device__ __forceinline__ void MultiplyStage(const std::byte* outputs, const std::byte* rows,
                                              int lane, Sums<T>& sums) {
  const int64_t place = lane / 4 * kGroupBytes + lane % 4 * 16;
  uint4 x[kRowTiles];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    x[r] = *reinterpret_cast<const uint4*>(rows + r * 8 * kGroupBytes + place);
  }
#pragma unroll
  for (int o = 0; o < kOutputTiles; ++o) {
    const std::byte* const tile = outputs + o * 16 * kGroupBytes + place;
    const uint4 low = *reinterpret_cast<const uint4*>(tile);
    const uint4 high = *reinterpret_cast<const uint4*>(tile + 8 * kGroupBytes);
    const uint32_t first[4] = {low.x, high.x, low.y, high.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const uint32_t first_x[2] = {x[r].x, x[r].y};
      const uint32_t second_x[2] = {x[r].z, x[r].w};
      MultiplyFragments<T>(sums.of[o][r], first, first_x);
      MultiplyFragments<T>(sums.of[o][r], second, second_x);
    }
  }
}

template <class T>
__device__ __forceinline__ void AddSlice(Sums<T>& slice, Sums<T>& total) {
#pragma unroll
  for (int o = 0; o < kOutputTiles; ++o) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total.of[o][r][i] += slice.of[o][r][i];
        slice.of[o][r][i] = 0;
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    ManyRowsKernel(const __grid_constant__ Product product) {
  auto* const shared = ptx::SharedMemory<std::byte>();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kBlockRows;
  const int64_t first_output = static_cast<int64_t>(blockIdx.y) * kBlockOutputs;
  const int64_t row_bytes = product.weights.stride * int64_t{sizeof(T)};
  const int64_t groups = row_bytes / kGroupBytes;
  const int64_t per_slice = (groups + kSlices - 1) / kSlices;
  const int warp_output = warp % 4 * 32;
  const int warp_row = warp / 4 * 32;

  Sums<T> slice;
  Sums<T> total;
  for (int s = 0; s < kStages - 1; ++s) {
    AskFor(product, row_bytes, s, first_output, first_row, shared + s * kStageBytes);
    ptx::CommitCopies();
  }
  for (int64_t group = 0; group < groups; ++group) {
    ptx::WaitCopies<kStages - 2>();
    __syncthreads();  // the group is there, and no thread reads the stage that is filled next
    const int64_t next = group + kStages - 1;
    AskFor(product, row_bytes, next, first_output, first_row,
           shared + next % kStages * kStageBytes);
    ptx::CommitCopies();
    const std::byte* const stage = shared + group % kStages * kStageBytes;
    MultiplyStage<T>(stage + warp_output * kGroupBytes,
                     stage + (kBlockOutputs + warp_row) * kGroupBytes, lane, slice);
    if ((group + 1) % per_slice == 0 || group + 1 == groups) AddSlice(slice, total);
  }
  ptx::WaitCopies<0>();

  const int g = lane / 4;
  const int t = lane % 4;
#pragma unroll
  for (int o = 0; o < kOutputTiles; ++o) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      const SumOf<T>(&sums)[4] = total.of[o][r];
      const int64_t output = first_output + warp_output + o * 16 + g;
      const int64_t row = first_row + warp_row + r * 8 + 2 * t;
      if (product.epilogue == Epilogue::kGate) {
        StoreGated<T>(product, row, output, sums[0], sums[2]);
        StoreGated<T>(product, row + 1, output, sums[1], sums[3]);
      } else {
        StoreSum<T>(product, row, output, sums[0]);
        StoreSum<T>(product, row + 1, output, sums[1]);
        StoreSum<T>(product, row, output + 8, sums[2]);
        StoreSum<T>(product, row + 1, output + 8, sums[3]);
      }
    }
  }
}

}  // namespace

void MultiplyManyRows(Stream& stream, const Product& product) {
  const dim3 grid(static_cast<uint32_t>((product.out.num_rows + kBlockRows - 1) / kBlockRows),
                  static_cast<uint32_t>((product.weight_rows + kBlockOutputs - 1) / kBlockOutputs));
  WithFragments(product.weights.format, [&]<class T>() {
    stream.Launch("MultiplyManyRows", grid, dim3(kThreads), size_t{kStages} * kStageBytes,
                  ManyRowsKernel<T>, product);
  });
}

}  // namespace strata::kernels::cuda
