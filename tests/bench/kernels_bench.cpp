// Matrix products and attention alone, with bytes or operations a second. Run with
// --benchmark_filter=... ; the number of threads is the last argument of each name.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "kernels/backend.h"

namespace strata::kernels {
namespace {

std::vector<float> Normals(int64_t count) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(engine);
  return values;
}

using benchmark::Counter;

// Arguments: rows, outputs, inputs, bits of a weight, threads. Weights are cycled through 64 MiB of
// copies, as a model's layers are, so that they come from memory.
void BM_MatMul(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const int64_t outputs = state.range(1);
  const int64_t inputs = state.range(2);
  const MatrixFormat stored = state.range(3) == 32   ? MatrixFormat::kF32
                              : state.range(3) == 16 ? MatrixFormat::kBF16
                                                     : MatrixFormat::kI8;
  auto backend = *CreateBackend({.device = "cpu", .threads = static_cast<int32_t>(state.range(4))});
  const std::vector<float> weights = Normals(outputs * inputs);
  const HostRows part{ElementType::kF32, reinterpret_cast<const std::byte*>(weights.data()),
                      outputs, inputs};
  std::vector<std::unique_ptr<Matrix>> layers;
  do {
    layers.push_back(*backend->Pack({&part, 1}, stored));
  } while (layers.size() * layers[0]->bytes() < size_t{64} << 20);
  // Rows begin on cache lines, as in the engine.
  const std::vector<float> normals = Normals(rows * inputs);
  const auto x = *backend->Allocate(normals.size() * sizeof(float));
  backend->CopyFromHost(x->data(), std::as_bytes(std::span(normals)));
  const auto out = *backend->Allocate(static_cast<size_t>(rows * outputs) * sizeof(float));
  size_t next = 0;
  for (auto _ : state) {
    backend->MatMul(*layers[next++ % layers.size()], {x->floats(), rows, inputs, inputs}, {},
                    {out->floats(), rows, outputs, outputs}, Backend::Store::kSet);
  }
  const auto calls = static_cast<double>(state.iterations());
  const auto multiply_adds = static_cast<double>(rows * outputs * inputs);
  state.counters["GFLOP/s"] = Counter(calls * 2e-9 * multiply_adds, Counter::kIsRate);
  state.counters["GB/s"] =
      Counter(calls * 1e-9 * static_cast<double>(layers[0]->bytes()), Counter::kIsRate);
}
BENCHMARK(BM_MatMul)
    ->ArgNames({"rows", "n", "k", "bits", "threads"})
    ->ArgsProduct({{1, 8, 32, 512}, {1536}, {576}, {32, 16, 8}, {1, 2}})
    ->ArgsProduct({{1, 512}, {576}, {1536}, {32, 16, 8}, {1, 2}})
    ->UseRealTime();

// Arguments: rows queried, context, bytes of a stored number, threads. 9 heads over 3 kv heads of
// 64 dimensions, the planes of 16 layers in turn.
void BM_Attention(benchmark::State& state) {
  constexpr int64_t kHeads = 9;
  constexpr int64_t kGroups = 3;
  constexpr int64_t kLayers = 16;
  constexpr int32_t kDim = 64;
  const int64_t rows = state.range(0);
  const int64_t context = state.range(1);
  auto backend = *CreateBackend({.device = "cpu", .threads = static_cast<int32_t>(state.range(3))});
  PagedArena cache{.block_tokens = 16};
  cache.key_format = state.range(2) == 4   ? PlaneFormat::kF32
                     : state.range(2) == 2 ? PlaneFormat::kBF16
                                           : PlaneFormat::kI8;
  cache.value_format = cache.key_format;
  const size_t plane = 16 * cache.TokenBytes(PlaneKind::kKey, kDim);
  cache.place_bytes = kLayers * kGroups * 2 * plane;
  const int64_t blocks = (context + 15) / 16;
  auto memory = *backend->Allocate(cache.place_bytes * static_cast<size_t>(blocks));
  cache.arena = memory->data();
  std::memset(cache.arena, 0x3c,
              memory->size());  // 0.0115; untouched pages would share one zero page
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  std::shuffle(table.begin(), table.end(), std::mt19937(2));
  std::vector<float> q = Normals(rows * kHeads * kDim);
  std::vector<float> out(q.size());
  const int32_t* const tables[] = {table.data()};
  const SequenceRows sequence{0, rows, context - rows, tables};
  std::vector<std::vector<PlaneGroup>> layers(kLayers);
  for (size_t pair = 0; pair < kLayers * kGroups; ++pair) {
    PlaneGroup& group =
        layers[pair / kGroups].emplace_back(PlaneGroup{.keys = {.offset = 2 * pair * plane},
                                                       .values = {.offset = (2 * pair + 1) * plane},
                                                       .head_dim = kDim});
    for (size_t h = 0; h < kHeads / kGroups; ++h) {
      const size_t column = (pair % kGroups * (kHeads / kGroups) + h) * kDim;
      group.heads.push_back({.query = q.data() + column,
                             .query_stride = kHeads * kDim,
                             .output = out.data() + column,
                             .output_stride = kHeads * kDim});
    }
  }
  size_t layer = 0;
  for (auto _ : state) backend->Attention(cache, {&sequence, 1}, layers[layer++ % kLayers]);
  const auto calls = static_cast<double>(state.iterations());
  const auto pairs = static_cast<double>(rows * kHeads * (context - rows / 2));
  state.counters["GFLOP/s"] = Counter(calls * 4e-9 * pairs * kDim, Counter::kIsRate);
  state.counters["GB/s"] =
      Counter(1e-9 * static_cast<double>(backend->counters().cache_bytes_read), Counter::kIsRate);
}
BENCHMARK(BM_Attention)
    ->ArgNames({"rows", "context", "bytes", "threads"})
    ->ArgsProduct({{1, 512}, {4096}, {4, 2, 1}, {1, 2}})
    ->UseRealTime();

// Ceiling of memory bandwidth only: a sum over 256 MiB. Portable code does not reach the peak of
// fused multiply-adds from registers.
void BM_ReadMemory(benchmark::State& state) {
  const std::vector<int64_t> memory(size_t{32} << 20, 1);
  for (auto _ : state) {
    int64_t sum = 0;
    for (const int64_t value : memory) sum += value;
    benchmark::DoNotOptimize(sum);
  }
  state.counters["GB/s"] =
      Counter(static_cast<double>(state.iterations()) * 0.268435456, Counter::kIsRate);
}
BENCHMARK(BM_ReadMemory)->UseRealTime();

}  // namespace
}  // namespace strata::kernels

BENCHMARK_MAIN();
