#include <cmath>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/paging.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 256;

// One block for each row.
template <class T>
__global__ void EmbedKernel(StoredRows table, int64_t num_gates, const int32_t* ids,
                            const int32_t* chosen, Rows out) {
  int64_t row = ids[blockIdx.x];
  if (row < 0) row = chosen[~row];
  if (num_gates > 0) {
    const int64_t up = row < num_gates ? 0 : 1;
    const int64_t result = row - up * num_gates;
    row = result / 8 * 16 + up * 8 + result % 8;
  }
  const T* const from = static_cast<const T*>(table.data) + row * table.stride;
  float* const to = out.data + static_cast<int64_t>(blockIdx.x) * out.stride;
  float scale = 1;
  if constexpr (kHasScale<T>) scale = table.scales[row];
  for (int64_t i = threadIdx.x; i < out.num_cols; i += kThreads) to[i] = ToFloat(from[i]) * scale;
}

// One block for each row.
template <class T>
__global__ void PrepareInputsKernel(ConstRows x, const float* weight, float epsilon, int64_t stride,
                                    T* out, float* scales) {
  float* const shared = ptx::SharedMemory<float>();
  const float* const from = x.data + static_cast<int64_t>(blockIdx.x) * x.stride;
  T* const to = out + static_cast<int64_t>(blockIdx.x) * stride;
  float scale = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (int64_t i = threadIdx.x; i < x.num_cols; i += kThreads) {
      squares = fmaf(from[i], from[i], squares);
    }
    const float mean = BlockSum<kThreads>(squares, shared) / static_cast<float>(x.num_cols);
    scale = 1.0f / sqrtf(mean + epsilon);
  }
  const auto value = [&](int64_t i) {
    if (i >= x.num_cols) return 0.0f;
    return weight == nullptr ? from[i] : from[i] * scale * weight[i];
  };
  if constexpr (kHasScale<T>) {
    uint32_t largest = 0;
    for (int64_t i = threadIdx.x; i < x.num_cols; i += kThreads) {
      largest = Larger(largest, Magnitude(value(i)));
    }
    largest = BlockMax<kThreads>(largest, reinterpret_cast<uint32_t*>(shared));
    const float step = ScaleOf<T>(largest);
    if (threadIdx.x == 0) scales[blockIdx.x] = step;
    for (int64_t i = threadIdx.x; i < stride; i += kThreads) to[i] = Scaled<T>(value(i), step);
  } else {
    for (int64_t i = threadIdx.x; i < stride; i += kThreads) to[i] = FromFloat<T>(value(i));
  }
}

// One block for each row.
__global__ void GatherKernel(ConstRows x, const int32_t* rows, Rows out) {
  const float* const from = x.data + rows[blockIdx.x] * x.stride;
  float* const to = out.data + static_cast<int64_t>(blockIdx.x) * out.stride;
  for (int64_t i = threadIdx.x; i < out.num_cols; i += kThreads) to[i] = from[i];
}

// One thread for each column, row after row: a row is overwritten only after it has been read,
// since sources are at or after their destinations.
__global__ void GatherInPlaceKernel(const float* x, int64_t x_stride, const int32_t* rows,
                                    Rows out) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= out.num_cols) return;
  for (int64_t i = 0; i < out.num_rows; ++i) {
    out.data[i * out.stride + column] = x[rows[i] * x_stride + column];
  }
}

// Turns the pairs (x[j], x[j + d/2]) by angle j.
__device__ void Rotate(float* row, int32_t dim, const float* angles, int lane) {
  const int32_t half = dim / 2;
  for (int32_t j = lane; j < half; j += kWarp) {
    const float cosine = angles[j];
    const float sine = angles[half + j];
    const float low = row[j];
    const float high = row[half + j];
    row[j] = fmaf(-high, sine, low * cosine);
    row[half + j] = fmaf(low, sine, high * cosine);
  }
}

// Writes a token of a plane; a row that is not finite gets a scale of NaN.
template <class T>
__device__ void WriteToken(const float* row, int32_t dim, std::byte* plane, int32_t block_tokens,
                           int64_t token, int lane) {
  const auto stride = static_cast<int64_t>(TokenStride(sizeof(T), dim));
  auto* const to = reinterpret_cast<T*>(plane + token * stride);
  if constexpr (kHasScale<T>) {
    uint32_t largest = 0;
    for (int32_t j = lane; j < dim; j += kWarp) largest = Larger(largest, Magnitude(row[j]));
    const float scale = ScaleOf<T>(WarpMax(largest));
    for (int32_t j = lane; j < dim; j += kWarp) to[j] = Scaled<T>(row[j], scale);
    if (lane == 0) reinterpret_cast<float*>(plane + block_tokens * stride)[token] = scale;
  } else {
    for (int32_t j = lane; j < dim; j += kWarp) to[j] = FromFloat<T>(row[j]);
  }
}

// x / rms(x) * weight.
__device__ void Normalise(float* row, int32_t dim, const RmsNorm& norm, int lane) {
  float squares = 0;
  for (int32_t j = lane; j < dim; j += kWarp) squares = fmaf(row[j], row[j], squares);
  const float scale = 1.0f / sqrtf(WarpSum(squares) / static_cast<float>(dim) + norm.epsilon);
  for (int32_t j = lane; j < dim; j += kWarp) row[j] = row[j] * scale * norm.weight[j];
}

// One warp for each row, blockIdx.y is the way.
__global__ void WayKernel(const __grid_constant__ ProjectionArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= args.num_rows) return;
  const HeadWay& way = args.ways[blockIdx.y];
  float* const values = way.data + row * way.stride;
  if (way.bias != nullptr) {
    for (int32_t j = lane; j < way.head_dim; j += kWarp) values[j] += way.bias[j];
  }
  if (way.norm.weight != nullptr) {
    __syncwarp();
    Normalise(values, way.head_dim, way.norm, lane);
  }
  if (way.rotated > 0) {
    __syncwarp();
    Rotate(values, way.rotated, way.rope_table + int64_t{args.positions[row]} * way.rotated, lane);
  }
  if (way.first_values != nullptr) {
    __syncwarp();
    const float* const firsts = way.first_values + row * way.first_stride;
    for (int32_t j = lane; j < way.head_dim; j += kWarp) {
      values[j] = fmaf(way.own, values[j], way.first * firsts[j]);
    }
  }
  if (!way.is_written) return;
  __syncwarp();
  const int64_t slot = args.slots[way.plane.block_group * args.num_rows + row];
  if (slot < 0) return;
  const int64_t token = slot % args.block_tokens;
  std::byte* const plane = args.arena +
                           static_cast<size_t>(slot / args.block_tokens) * args.place_bytes +
                           way.plane.offset;
  WithNumbers(way.kind == PlaneKind::kKey ? args.key_format : args.value_format, [&]<class T>() {
    WriteToken<T>(values, way.head_dim, plane, args.block_tokens, token, lane);
  });
}

uint32_t Blocks(int64_t count, int64_t each) {
  return static_cast<uint32_t>((count + each - 1) / each);
}

}  // namespace

void EmbedRows(Stream& stream, const StoredRows& table, int64_t num_gates, const int32_t* ids,
               const int32_t* chosen, Rows out) {
  if (out.num_rows == 0) return;
  WithNumbers(table.format, [&]<class T>() {
    stream.Launch("Embed", dim3(static_cast<uint32_t>(out.num_rows)), dim3(kThreads), 0,
                  EmbedKernel<T>, table, num_gates, ids, chosen, out);
  });
}

void PrepareInputs(Stream& stream, ConstRows x, const float* weight, float epsilon,
                   MatrixFormat format, int64_t stride, void* out, float* scales) {
  if (x.num_rows == 0) return;
  WithNumbers(format, [&]<class T>() {
    stream.Launch("PrepareInputs", dim3(static_cast<uint32_t>(x.num_rows)), dim3(kThreads),
                  kThreads / kWarp * sizeof(float), PrepareInputsKernel<T>, x, weight, epsilon,
                  stride, static_cast<T*>(out), scales);
  });
}

void Gather(Stream& stream, ConstRows x, const int32_t* rows, Rows out, bool in_place) {
  if (out.num_rows == 0) return;
  if (in_place) {
    stream.Launch("Gather", dim3(Blocks(out.num_cols, kThreads)), dim3(kThreads), 0,
                  GatherInPlaceKernel, x.data, x.stride, rows, out);
  } else {
    stream.Launch("Gather", dim3(static_cast<uint32_t>(out.num_rows)), dim3(kThreads), 0,
                  GatherKernel, x, rows, out);
  }
}

void RunWays(Stream& stream, const ProjectionArgs& args) {
  if (args.num_ways == 0 || args.num_rows == 0) return;
  stream.Launch("PrepareAttention",
                dim3(Blocks(args.num_rows, kThreads / kWarp), static_cast<uint32_t>(args.num_ways)),
                dim3(kThreads), 0, WayKernel, args);
}

}  // namespace strata::kernels::cuda
