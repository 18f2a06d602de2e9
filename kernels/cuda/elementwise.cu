#include <cmath>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/paging.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/reduce.cuh"

namespace strata::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float Load(const float* row, int64_t i) { return row[i]; }
__device__ __forceinline__ float Load(const uint16_t* row, int64_t i) { return LowBF16(row[i]); }
__device__ __forceinline__ void Store(float value, float* row, int64_t i) { row[i] = value; }
__device__ __forceinline__ void Store(float value, uint16_t* row, int64_t i) {
  row[i] = static_cast<uint16_t>(ptx::PackBF16(value, 0.0f));
}

// A block a row.
template <class T>
__global__ void EmbedKernel(const T* table, int64_t stride, int64_t num_gates, const int32_t* ids,
                            Rows out) {
  int64_t row = ids[blockIdx.x];
  if (num_gates > 0) {
    const int64_t up = row < num_gates ? 0 : 1;
    const int64_t result = row - up * num_gates;
    row = result / 8 * 16 + up * 8 + result % 8;
  }
  const T* const from = table + row * stride;
  float* const to = out.data + static_cast<int64_t>(blockIdx.x) * out.stride;
  for (int64_t i = threadIdx.x; i < out.num_cols; i += kThreads) to[i] = Load(from, i);
}

// A block a row.
template <class T>
__global__ void PrepareInputsKernel(ConstRows x, const float* weight, float epsilon, int64_t stride,
                                    T* out) {
  float* const shared = ptx::SharedMemory<float>();
  const float* const from = x.data + static_cast<int64_t>(blockIdx.x) * x.stride;
  T* const to = out + static_cast<int64_t>(blockIdx.x) * stride;
  float scale = 1;
  if (weight != nullptr) {
    float squares = 0;
    for (int64_t i = threadIdx.x; i < x.num_cols; i += kThreads) squares += from[i] * from[i];
    const float mean = BlockSum<kThreads>(squares, shared) / static_cast<float>(x.num_cols);
    scale = 1.0f / sqrtf(mean + epsilon);
  }
  for (int64_t i = threadIdx.x; i < stride; i += kThreads) {
    float value = 0;
    if (i < x.num_cols) value = weight == nullptr ? from[i] : from[i] * scale * weight[i];
    Store(value, to, i);
  }
}

// A thread a result.
__global__ void ApplyGatesKernel(const float* sums, int64_t sums_stride, Rows out) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= out.num_cols) return;
  const int64_t row = blockIdx.x;
  const float* const gate = sums + row * sums_stride + column / 8 * 16 + column % 8;
  out.data[row * out.stride + column] = gate[0] / (1.0f + expf(-gate[0])) * gate[8];
}

// A block a row.
__global__ void GatherKernel(ConstRows x, const int32_t* rows, Rows out) {
  const float* const from = x.data + rows[blockIdx.x] * x.stride;
  float* const to = out.data + static_cast<int64_t>(blockIdx.x) * out.stride;
  for (int64_t i = threadIdx.x; i < out.num_cols; i += kThreads) to[i] = from[i];
}

// A thread a column, row after row: what a row is overwritten with was read from behind it.
__global__ void GatherInPlaceKernel(const float* x, int64_t x_stride, const int32_t* rows,
                                    Rows out) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= out.num_cols) return;
  for (int64_t i = 0; i < out.num_rows; ++i) {
    out.data[i * out.stride + column] = x[rows[i] * x_stride + column];
  }
}

// (x[j], x[j + d/2]) turn by angle j.
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

// Numbers with the scale max |x| / 127; a row that is not finite has a scale of NaN.
__device__ void WriteInt8(const float* row, int32_t dim, int8_t* numbers, float* scale, int lane) {
  uint32_t largest = 0;  // |x| as bits, which order as the numbers do, with NaN above infinity
  for (int32_t j = lane; j < dim; j += kWarp) {
    largest = max(largest, __float_as_uint(row[j]) & 0x7fffffffu);
  }
  for (int apart = kWarp / 2; apart > 0; apart /= 2) {
    largest = max(largest, __shfl_xor_sync(kWholeWarp, largest, apart));
  }
  const bool finite = largest < 0x7f800000u;
  const float step = __uint_as_float(largest) / 127.0f;
  const bool scaled = finite && step != 0.0f;
  for (int32_t j = lane; j < dim; j += kWarp) {
    const float number = scaled ? rintf(row[j] / step) : 0.0f;
    numbers[j] = static_cast<int8_t>(fminf(fmaxf(number, -127.0f), 127.0f));
  }
  if (lane == 0) *scale = finite ? step : __uint_as_float(0x7fc00000u);
}

// A warp a row, blockIdx.y a task.
__global__ void ProjectionKernel(const __grid_constant__ ProjectionTasks tasks) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= tasks.num_rows) return;
  const ProjectionTask& task = tasks.task[blockIdx.y];
  float* const values = task.data + row * task.stride;
  if (task.rotate) {
    Rotate(values, task.columns, tasks.rope_table + int64_t{tasks.positions[row]} * task.columns,
           lane);
  } else if (task.mix) {
    const float* const firsts = task.first_values + row * task.first_stride;
    for (int32_t j = lane; j < task.columns; j += kWarp) {
      values[j] = fmaf(task.own, values[j], task.first * firsts[j]);
    }
  }
  if (!task.write) return;
  __syncwarp();
  const int64_t slot = tasks.slots[row];
  const int64_t token = slot % tasks.block_tokens;
  std::byte* const plane = tasks.arena +
                           static_cast<size_t>(slot / tasks.block_tokens) * tasks.block_bytes +
                           task.plane_offset;
  const DType dtype = task.is_key ? tasks.key_dtype : tasks.value_dtype;
  const size_t token_stride = TokenStride(dtype, task.columns);
  std::byte* const to = plane + static_cast<size_t>(token) * token_stride;
  if (dtype == DType::kI8) {
    auto* const scales =
        reinterpret_cast<float*>(plane + static_cast<size_t>(tasks.block_tokens) * token_stride);
    WriteInt8(values, task.columns, reinterpret_cast<int8_t*>(to), scales + token, lane);
    return;
  }
  for (int32_t j = lane; j < task.columns; j += kWarp) {
    if (dtype == DType::kF32) {
      Store(values[j], reinterpret_cast<float*>(to), j);
    } else {
      Store(values[j], reinterpret_cast<uint16_t*>(to), j);
    }
  }
}

uint32_t Blocks(int64_t count, int64_t each) {
  return static_cast<uint32_t>((count + each - 1) / each);
}

}  // namespace

void EmbedRows(Stream& stream, const StoredRows& table, int64_t num_gates, const int32_t* ids,
               Rows out) {
  if (out.num_rows == 0) return;
  const dim3 grid(static_cast<uint32_t>(out.num_rows));
  if (table.dtype == DType::kF32) {
    stream.Launch("Embed", grid, dim3(kThreads), 0, EmbedKernel<float>,
                  static_cast<const float*>(table.data), table.stride, num_gates, ids, out);
  } else {
    stream.Launch("Embed", grid, dim3(kThreads), 0, EmbedKernel<uint16_t>,
                  static_cast<const uint16_t*>(table.data), table.stride, num_gates, ids, out);
  }
}

void PrepareInputs(Stream& stream, ConstRows x, const float* weight, float epsilon, DType dtype,
                   int64_t stride, void* out) {
  const dim3 grid(static_cast<uint32_t>(x.num_rows));
  constexpr size_t kShared = kThreads / kWarp * sizeof(float);
  if (dtype == DType::kF32) {
    stream.Launch("PrepareInputs", grid, dim3(kThreads), kShared, PrepareInputsKernel<float>, x,
                  weight, epsilon, stride, static_cast<float*>(out));
  } else {
    stream.Launch("PrepareInputs", grid, dim3(kThreads), kShared, PrepareInputsKernel<uint16_t>, x,
                  weight, epsilon, stride, static_cast<uint16_t*>(out));
  }
}

void ApplyGates(Stream& stream, const float* sums, int64_t sums_stride, Rows out) {
  stream.Launch("ApplyGates",
                dim3(static_cast<uint32_t>(out.num_rows), Blocks(out.num_cols, kThreads)),
                dim3(kThreads), 0, ApplyGatesKernel, sums, sums_stride, out);
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

void RunProjectionTasks(Stream& stream, const ProjectionTasks& tasks) {
  if (tasks.count == 0 || tasks.num_rows == 0) return;
  stream.Launch("PrepareAttention",
                dim3(Blocks(tasks.num_rows, kThreads / kWarp), static_cast<uint32_t>(tasks.count)),
                dim3(kThreads), 0, ProjectionKernel, tasks);
}

}  // namespace strata::kernels::cuda
