#include "tests/bench/device_ceilings.h"

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>

#include "tests/bench/cuda/ceilings.h"

namespace strata::testing {
namespace {

using kernels::Backend;
using kernels::Rows;

double SecondsOfCalls(Backend& backend, const std::function<void()>& operation, int calls) {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) operation();
  const absl::Status status = backend.Synchronize();
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / calls;
}

std::unique_ptr<kernels::Buffer> Allocate(Backend& backend, size_t bytes) {
  auto buffer = backend.Allocate(bytes);
  if (!buffer.ok()) throw std::runtime_error(buffer.status().ToString());
  return *std::move(buffer);
}

// Measures by the library beside the program.
Ceilings CudaCeilings() {
  const std::filesystem::path library =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "libstrata_cuda_ceilings.so";
  void* const loaded = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* const function = loaded == nullptr ? nullptr : dlsym(loaded, "strata_cuda_ceilings");
  if (function == nullptr) throw std::runtime_error(dlerror());
  StrataCudaCeilings measured;
  reinterpret_cast<decltype(&strata_cuda_ceilings)>(function)(size_t{2} << 30, &measured);
  return {.read_gbps = measured.copy_gbps,
          .matrix_gflops = measured.bf16_gflops,
          .bf16_gflops = measured.bf16_gflops,
          .int8_gops = measured.int8_gops,
          .f16_gflops = measured.f16_gflops,
          .fp8_gflops = measured.fp8_gflops};
}

Ceilings OwnCeilings(Backend& backend) {
  constexpr size_t kBytes = size_t{256} << 20;
  constexpr int64_t kSize = 1024;
  Ceilings ceilings;
  {
    const auto from = Allocate(backend, kBytes);
    const auto to = Allocate(backend, kBytes);
    const double seconds =
        SecondsOf(backend, [&] { backend.Copy(to->data(), from->data(), kBytes); });
    ceilings.read_gbps = 2e-9 * static_cast<double>(kBytes) / seconds;
  }
  const std::vector<float> numbers = RandomFloats(kSize * kSize);
  const kernels::HostRows rows = {kernels::ElementType::kF32,
                                  reinterpret_cast<const std::byte*>(numbers.data()), kSize, kSize};
  auto w = backend.Pack({&rows, 1}, kernels::MatrixFormat::kBF16);
  if (!w.ok()) throw std::runtime_error(w.status().ToString());
  const auto x = Allocate(backend, numbers.size() * sizeof(float));
  const auto out = Allocate(backend, numbers.size() * sizeof(float));
  backend.CopyFromHost(x->data(), std::as_bytes(std::span(numbers)));
  const Rows in_rows = {x->floats(), kSize, kSize, kSize};
  const Rows out_rows = {out->floats(), kSize, kSize, kSize};
  const double seconds =
      SecondsOf(backend, [&] { backend.MatMul(**w, in_rows, {}, out_rows, Backend::Store::kSet); });
  const auto n = static_cast<double>(kSize);
  ceilings.matrix_gflops = ceilings.bf16_gflops = 2e-9 * n * n * n / seconds;
  return ceilings;
}

}  // namespace

std::vector<float> RandomFloats(int64_t count) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& number : numbers) number = uniform(random);
  return numbers;
}

double SecondsOf(Backend& backend, const std::function<void()>& operation) {
  constexpr int kRuns = 5;
  constexpr double kRunSeconds = 0.02;
  operation();  // working memory grows, algorithms are chosen
  const double first = SecondsOfCalls(backend, operation, 1);
  const int calls = std::clamp(static_cast<int>(kRunSeconds / first), 1, 1000);
  std::vector<double> seconds;
  for (int run = 0; run < kRuns; ++run) {
    seconds.push_back(SecondsOfCalls(backend, operation, calls));
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds[kRuns / 2];
}

Ceilings MeasureDeviceCeilings(Backend& backend, const std::string& device) {
  return device == "cuda" ? CudaCeilings() : OwnCeilings(backend);
}

}  // namespace strata::testing
