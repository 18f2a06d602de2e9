#include "tests/bench/device_ceilings.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

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

}  // namespace

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

Ceilings MeasureDeviceCeilings(Backend& backend, size_t bytes, int64_t size) {
  Ceilings ceilings;
  {
    const auto from = Allocate(backend, bytes);
    const auto to = Allocate(backend, bytes);
    const double seconds =
        SecondsOf(backend, [&] { backend.Copy(to->data(), from->data(), bytes); });
    ceilings.read_gbps = 2e-9 * static_cast<double>(bytes) / seconds;
  }
  const std::vector<float> ones(static_cast<size_t>(size * size), 1.0f);
  const kernels::HostRows rows = {kernels::DType::kF32,
                                  reinterpret_cast<const std::byte*>(ones.data()), size, size};
  auto w = backend.Pack({&rows, 1}, kernels::DType::kBF16);
  if (!w.ok()) throw std::runtime_error(w.status().ToString());
  const auto x = Allocate(backend, ones.size() * sizeof(float));
  const auto out = Allocate(backend, ones.size() * sizeof(float));
  const Rows in_rows = {x->floats(), size, size, size};
  const Rows out_rows = {out->floats(), size, size, size};
  const double seconds =
      SecondsOf(backend, [&] { backend.MatMul(**w, in_rows, {}, out_rows, Backend::Store::kSet); });
  const auto n = static_cast<double>(size);
  ceilings.matrix_gflops = ceilings.bf16_gflops = 2e-9 * n * n * n / seconds;
  return ceilings;
}

}  // namespace strata::testing
