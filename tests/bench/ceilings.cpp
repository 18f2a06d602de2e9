#include "tests/bench/ceilings.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/ceilings.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace strata::testing {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;

// 12 chains of fused multiply-adds, enough to hide the latency of two units. Returns the number of
// floating-point operations.
double MultiplyAdd(int64_t rounds, float* sink) {
  constexpr size_t kChains = 12;
  const D d;
  const auto factor = hn::Set(d, 0.999F);
  const auto addend = hn::Set(d, 0.001F);
  hn::Vec<D> chains[kChains];
  for (size_t i = 0; i < kChains; ++i) chains[i] = hn::Set(d, static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    for (auto& chain : chains) chain = hn::MulAdd(chain, factor, addend);
  }
  auto sum = hn::Zero(d);
  for (const auto& chain : chains) sum = hn::Add(sum, chain);
  *sink += hn::GetLane(sum);
  return static_cast<double>(rounds) * 2 * kChains * static_cast<double>(hn::Lanes(d));
}

float Sum(const float* data, size_t count) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<D> sums[8];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (size_t i = 0; i + 8 * lanes <= count; i += 8 * lanes) {
    for (size_t j = 0; j < 8; ++j) sums[j] = hn::Add(sums[j], hn::LoadU(d, data + i + j * lanes));
  }
  auto sum = hn::Zero(d);
  for (const auto& part : sums) sum = hn::Add(sum, part);
  return hn::GetLane(sum);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace HWY_NAMESPACE
}  // namespace strata::testing
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace strata::testing {
namespace {

HWY_EXPORT(MultiplyAdd);
HWY_EXPORT(Sum);

#if HWY_ARCH_X86_64
bool HasDotProduct() { return __builtin_cpu_supports("avx512vnni"); }

// As MultiplyAdd, for bytes. In assembly because GCC 12 copies the sums around its intrinsic.
__attribute__((target("avx512f,avx512vnni"))) double DotProduct(int64_t rounds, float* sink) {
  constexpr size_t kChains = 12;
  __m512i chains[kChains];
#pragma GCC unroll 12
  for (size_t i = 0; i < kChains; ++i) chains[i] = _mm512_set1_epi32(static_cast<int>(i));
  const __m512i left = _mm512_set1_epi8(3);
  const __m512i right = _mm512_set1_epi8(2);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (size_t i = 0; i < kChains; ++i) {
      __asm__("vpdpbusd %2, %1, %0" : "+v"(chains[i]) : "v"(left), "v"(right));
    }
  }
#pragma GCC unroll 12
  for (size_t i = 1; i < kChains; ++i) chains[0] = _mm512_add_epi32(chains[0], chains[i]);
  *sink += static_cast<float>(_mm512_cvtsi512_si32(chains[0]));
  return static_cast<double>(rounds) * 2 * kChains * 64;
}

// AVX2's substitute: products of 16 bits summed in pairs, and added up.
__attribute__((target("avx2"))) double PairProducts(int64_t rounds, float* sink) {
  constexpr size_t kChains = 8;
  __m256i chains[kChains];
#pragma GCC unroll 8
  for (size_t i = 0; i < kChains; ++i) chains[i] = _mm256_set1_epi32(static_cast<int>(i));
  const __m256i left = _mm256_set1_epi16(3);
  const __m256i right = _mm256_set1_epi16(2);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
    for (size_t i = 0; i < kChains; ++i) {
      __m256i product;
      __asm__ volatile("vpmaddwd %2, %1, %0" : "=x"(product) : "x"(left), "x"(right));
      __asm__("vpaddd %1, %0, %0" : "+x"(chains[i]) : "x"(product));
    }
  }
#pragma GCC unroll 8
  for (size_t i = 1; i < kChains; ++i) chains[0] = _mm256_add_epi32(chains[0], chains[i]);
  *sink += static_cast<float>(_mm256_cvtsi256_si32(chains[0]));
  return static_cast<double>(rounds) * 2 * kChains * 16;
}

bool HasBF16DotProduct() { return __builtin_cpu_supports("avx512bf16"); }

// The same for bf16: two products to a lane.
__attribute__((target("avx512f,avx512bf16"))) double BF16DotProduct(int64_t rounds, float* sink) {
  constexpr size_t kChains = 12;
  __m512 chains[kChains];
#pragma GCC unroll 12
  for (size_t i = 0; i < kChains; ++i) chains[i] = _mm512_set1_ps(static_cast<float>(i));
  const __m512i ones = _mm512_set1_epi16(0x3f80);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (size_t i = 0; i < kChains; ++i) {
      __asm__("vdpbf16ps %1, %1, %0" : "+v"(chains[i]) : "v"(ones));
    }
  }
#pragma GCC unroll 12
  for (size_t i = 1; i < kChains; ++i) chains[0] = _mm512_add_ps(chains[0], chains[i]);
  *sink += _mm512_cvtss_f32(chains[0]);
  return static_cast<double>(rounds) * 2 * kChains * 32;
}
#else
bool HasDotProduct() { return false; }
bool HasBF16DotProduct() { return false; }
double BF16DotProduct(int64_t, float*) { return 0; }
double DotProduct(int64_t, float*) { return 0; }
double PairProducts(int64_t, float*) { return 0; }
#endif

// The median over some rounds, in seconds; in a round all threads do `work(thread)`.
double MedianSeconds(int threads, const std::function<void(int)>& work) {
  std::array<double, 5> rounds;
  for (double& seconds : rounds) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back([&work, i] { work(i); });
    work(0);
    others.clear();
    const auto end = std::chrono::steady_clock::now();
    seconds = std::chrono::duration<double>(end - begin).count();
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds.size() / 2];
}

}  // namespace

Ceilings MeasureCeilings(int threads) {
  constexpr int64_t kRounds = 20'000'000;
  std::vector<float> sinks(static_cast<size_t>(threads) * 16);
  const auto sink = [&](int i) { return &sinks[static_cast<size_t>(i) * 16]; };
  // 10^9 operations a second; each thread's `work` returns its number of operations.
  const auto rate = [&](auto work) {
    std::vector<double> operations(static_cast<size_t>(threads));
    const double seconds = MedianSeconds(
        threads, [&](int i) { operations[static_cast<size_t>(i)] = work(kRounds, sink(i)); });
    return 1e-9 * std::accumulate(operations.begin(), operations.end(), 0.0) / seconds;
  };
  Ceilings ceilings;
  ceilings.matrix_gflops = rate(HWY_DYNAMIC_DISPATCH(MultiplyAdd));
  ceilings.int8_gops = rate(HasDotProduct() ? DotProduct : PairProducts);
  if (HasBF16DotProduct()) ceilings.bf16_gflops = rate(BF16DotProduct);
  const std::vector<float> memory(size_t{128} << 20, 1.0F);
  const size_t share = memory.size() / static_cast<size_t>(threads);
  const double read_seconds = MedianSeconds(threads, [&](int i) {
    *sink(i) += HWY_DYNAMIC_DISPATCH(Sum)(memory.data() + static_cast<size_t>(i) * share, share);
  });
  ceilings.read_gbps = 1e-9 * static_cast<double>(memory.size() * sizeof(float)) / read_seconds;
  return ceilings;
}

Ceilings MeanOf(const Ceilings& a, const Ceilings& b) {
  return {.read_gbps = (a.read_gbps + b.read_gbps) / 2,
          .matrix_gflops = (a.matrix_gflops + b.matrix_gflops) / 2,
          .bf16_gflops = (a.bf16_gflops + b.bf16_gflops) / 2,
          .int8_gops = (a.int8_gops + b.int8_gops) / 2,
          .f16_gflops = (a.f16_gflops + b.f16_gflops) / 2,
          .fp8_gflops = (a.fp8_gflops + b.fp8_gflops) / 2};
}

}  // namespace strata::testing
#endif  // HWY_ONCE
