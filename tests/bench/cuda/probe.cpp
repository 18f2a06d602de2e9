// Measures the properties of a device that the server's design depends on.
//
//   build/bin/strata-cudaprobe [PART...]
//
//   device   its name, memory, caches and driver
//   copies   the rate of copies within and beyond the size of the second cache, and of reading
//   nodes    the time of a kernel in a graph, by its arguments, its size, and whether it waits
//   itself
//   sums     adding up weights in shared memory: 64 bits at once, or pieces of 32
//   bf16 f16 int8 fp8 f32
//            products for which cuBLASLt has a plan, the time of asking and of the product, and, in
//            int8, its correctness; a process each, as an error of the device stays
//   ceilings the rates that benches compare with
//
// Without arguments all parts. A line of JSON for each figure. Exits with 77 if there is no device.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cublas_products.h"
#include "nlohmann/json.hpp"
#include "tests/bench/cuda/ceilings.h"
#include "tests/bench/cuda/probe_kernels.h"
#include "tests/bench/cuda/timing.h"

namespace strata::testing {
namespace {

using kernels::MatrixFormat;
using nlohmann::ordered_json;

void Print(const ordered_json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// A plain CUDA stream for benches of single operations.
class PlainStream {
 public:
  PlainStream() {
    Require(cudaStreamCreateWithFlags(&handle_, cudaStreamNonBlocking), "making a stream");
  }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;
  ~PlainStream() { cudaStreamDestroy(handle_); }
  operator cudaStream_t() const { return handle_; }  // NOLINT: implicit on purpose

 private:
  cudaStream_t handle_ = nullptr;
};

double MicrosecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
      .count();
}

void ProbeDevice(const cudaDeviceProp& device) {
  int driver = 0;
  int runtime = 0;
  Require(cudaDriverGetVersion(&driver), "asking for the driver");
  Require(cudaRuntimeGetVersion(&runtime), "asking for the runtime");
  Print({{"part", "device"},
         {"name", device.name},
         {"compute_capability", std::to_string(device.major) + "." + std::to_string(device.minor)},
         {"driver", driver},
         {"runtime", runtime},
         {"cublaslt", cublasLtGetVersion()},
         {"multiprocessors", device.multiProcessorCount},
         {"memory_bytes", device.totalGlobalMem},
         {"second_cache_bytes", device.l2CacheSize},
         {"kept_in_it_bytes", device.persistingL2CacheMaxSize},
         {"shared_bytes_of_multiprocessor", device.sharedMemPerMultiprocessor},
         {"shared_bytes_of_block", device.sharedMemPerBlockOptin}});
}

void ProbeCopies(const cudaDeviceProp& device) {
  for (const size_t mebibytes : {16, 64, 256, 2048}) {
    Print({{"part", "copies"},
           {"mebibytes", mebibytes},
           {"read_and_written_gbps", CopyGbps(mebibytes << 20)}});
  }
  const PlainStream stream;
  constexpr size_t kBytes = size_t{2} << 30;
  const Memory<std::byte> from(kBytes);
  const Memory<uint32_t> out(1);
  Require(cudaMemset(from.data(), 0x5a, kBytes), "filling memory");
  for (const int blocks : {1, 2, 4}) {  // of 512 threads, on each multiprocessor
    const double seconds = DeviceSeconds(stream, 5, [&] {
      LaunchRead(stream, from.data(), kBytes / 16, blocks * device.multiProcessorCount, out.data());
    });
    Require(cudaGetLastError(), "reading");
    Print({{"part", "copies"},
           {"mebibytes", kBytes >> 20},
           {"blocks_of_multiprocessor", blocks},
           {"read_gbps", 1e-9 * static_cast<double>(kBytes) / seconds}});
  }
}

void ProbeNodes(const cudaDeviceProp& device) {
  constexpr int kNodes = 180;  // about as many as in a decode step of 16 layers
  const PlainStream stream;
  const Memory<uint32_t> out(1);
  for (const int blocks : {1, device.multiProcessorCount, 8 * device.multiProcessorCount}) {
    for (const ArgumentBytes bytes : {ArgumentBytes::kFew, ArgumentBytes::kAttention}) {
      for (const bool dependent : {false, true}) {
        if (dependent && device.major < 9) continue;
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t made = nullptr;
        Require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
        for (int i = 0; i < kNodes; ++i) {
          Require(LaunchNothing(stream, bytes, blocks, dependent, out.data()), "a launch");
        }
        Require(cudaStreamEndCapture(stream, &graph), "capturing");
        size_t before = 0;
        size_t after = 0;
        size_t total = 0;
        Require(cudaMemGetInfo(&before, &total), "asking for free memory");
        const auto begin = std::chrono::steady_clock::now();
        Require(cudaGraphInstantiate(&made, graph, 0), "making a graph");
        const double making = MicrosecondsSince(begin);
        Require(cudaGraphLaunch(made, stream), "launching a graph");
        Require(cudaStreamSynchronize(stream), "waiting");
        Require(cudaMemGetInfo(&after, &total), "asking for free memory");
        const double in_graph = DeviceSeconds(
            stream, 10, [&] { Require(cudaGraphLaunch(made, stream), "launching a graph"); });
        const double one_by_one = DeviceSeconds(stream, 2, [&] {
          for (int i = 0; i < kNodes; ++i) {
            Require(LaunchNothing(stream, bytes, blocks, dependent, out.data()), "a launch");
          }
        });
        Print({{"part", "nodes"},
               {"blocks", blocks},
               {"argument_bytes", SizeOf(bytes)},
               {"dependent", dependent},
               {"microseconds_a_node", 1e6 * in_graph / kNodes},
               {"microseconds_a_launch", 1e6 * one_by_one / kNodes},
               {"microseconds_to_make", making},
               {"device_bytes", before > after ? before - after : 0}});
        cudaGraphExecDestroy(made);
        cudaGraphDestroy(graph);
      }
    }
  }
}

void ProbeSums() {
  const PlainStream stream;
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (const int count : {32'000, 128'256, 262'144}) {
    std::vector<float> logits(static_cast<size_t>(count));
    for (float& logit : logits) logit = normal(random);
    const Memory<float> on_device(logits.size());
    Require(cudaMemcpy(on_device.data(), logits.data(), logits.size() * sizeof(float),
                       cudaMemcpyHostToDevice),
            "a copy");
    using Sum = unsigned long long;  // NOLINT(google-runtime-int): CUDA's atomics'
    const Memory<Sum> sums(256);
    std::vector<std::vector<Sum>> results;
    ordered_json line = {{"part", "sums"}, {"logits", count}};
    for (const bool pieces : {false, true}) {
      const double seconds = DeviceSeconds(stream, 20, [&] {
        LaunchDigitSums(stream, pieces, on_device.data(), count, sums.data());
      });
      Require(cudaGetLastError(), "adding up");
      std::vector<Sum> result(256);
      Require(cudaMemcpy(result.data(), sums.data(), 256 * sizeof(Sum), cudaMemcpyDeviceToHost),
              "a copy");
      results.push_back(std::move(result));
      line[pieces ? "microseconds_in_pieces" : "microseconds_in_64_bits"] = 1e6 * seconds;
    }
    line["equal"] = results[0] == results[1];
    Print(line);
  }
}

// Asks for products as the server does: cublas_products.cpp.
void ProbeProducts(MatrixFormat dtype) {
  const std::string name = std::string(kernels::FormatName(dtype));
  constexpr int64_t kMostRows = 2048;
  constexpr int64_t kMostOutputs = 16384;
  constexpr int64_t kMostInputs = 8192;
  const auto size = kernels::NumberBytes(dtype);
  const Memory<uint8_t> w(static_cast<size_t>(kMostOutputs * kMostInputs) * size);
  const Memory<uint8_t> x(static_cast<size_t>(kMostRows * kMostInputs) * size);
  const Memory<float> out(static_cast<size_t>(kMostRows * kMostOutputs));
  const Memory<int32_t> expected(static_cast<size_t>(kMostRows * kMostOutputs));
  // Bytes that are finite, and of moderate size, in each of the types.
  std::mt19937 random(1);
  std::vector<uint8_t> bytes(size_t{1} << 24);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() & 0xb7);
  const auto fill = [&](uint8_t* to, size_t count) {
    for (size_t at = 0; at < count; at += bytes.size()) {
      Require(cudaMemcpy(to + at, bytes.data(), std::min(bytes.size(), count - at),
                         cudaMemcpyHostToDevice),
              "a copy");
    }
  };
  fill(w.data(), static_cast<size_t>(kMostOutputs * kMostInputs) * size);
  fill(x.data(), static_cast<size_t>(kMostRows * kMostInputs) * size);

  kernels::cuda::Stream stream;
  stream.Open();
  kernels::cuda::CublasProducts products;
  if (const absl::Status status = products.Open(stream); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    std::exit(1);
  }
  struct Shape {
    int64_t outputs, inputs;
  };
  for (const auto& [outputs, inputs] :
       {Shape{32, 384}, Shape{3072, 2048}, Shape{2048, 8192}, Shape{16384, 2048}}) {
    for (const int64_t rows :
         {9, 10, 12, 16, 17, 20, 24, 31, 32, 33, 40, 48, 64, 100, 130, 512, 2048}) {
      const kernels::Rows sums = {out.data(), rows, outputs, outputs};
      const auto multiply = [&, count = inputs] {
        return products.Multiply(stream, dtype, w.data(), x.data(), count, sums, false);
      };
      ordered_json line = {
          {"part", name}, {"outputs", outputs}, {"inputs", inputs}, {"rows", rows}};
      const auto begin = std::chrono::steady_clock::now();
      line["plan"] = multiply();
      line["microseconds_to_ask"] = MicrosecondsSince(begin);
      if (!line["plan"]) {
        Print(line);
        continue;
      }
      const double seconds = DeviceSeconds(stream.handle(), 20, multiply);
      if (!stream.ok()) {
        line["error"] = cudaGetErrorString(stream.error());
        Print(line);
        return;
      }
      const auto operations = 2.0 * static_cast<double>(rows * outputs * inputs);
      const auto moved =
          static_cast<double>((outputs + rows) * inputs) * static_cast<double>(size) +
          4.0 * static_cast<double>(rows * outputs);
      line["microseconds"] = 1e6 * seconds;
      line["gflops"] = 1e-9 * operations / seconds;
      line["gbps"] = 1e-9 * moved / seconds;
      if (dtype == MatrixFormat::kI8) {
        LaunchExactProduct(stream.handle(), reinterpret_cast<const int8_t*>(w.data()),
                           reinterpret_cast<const int8_t*>(x.data()), static_cast<int>(outputs),
                           static_cast<int>(inputs), static_cast<int>(rows), expected.data());
        const auto count = static_cast<size_t>(rows * outputs);
        std::vector<int32_t> right(count);
        std::vector<int32_t> made(count);
        stream.Copy(right.data(), expected.data(), 4 * count, cudaMemcpyDeviceToHost);
        stream.Copy(made.data(), out.data(), 4 * count, cudaMemcpyDeviceToHost);
        stream.Wait();
        line["right"] = stream.ok() && right == made;
      }
      Print(line);
    }
  }
}

void ProbeCeilings() {
  StrataCudaCeilings ceilings;
  strata_cuda_ceilings(size_t{2} << 30, &ceilings);
  Print({{"part", "ceilings"},
         {"copy_gbps", ceilings.copy_gbps},
         {"bf16_gflops", ceilings.bf16_gflops},
         {"f16_gflops", ceilings.f16_gflops},
         {"int8_gops", ceilings.int8_gops},
         {"fp8_gflops", ceilings.fp8_gflops}});
}

int Main(const std::vector<std::string>& parts) {
  const std::vector<std::string> known = {"device", "copies", "nodes", "sums", "bf16",
                                          "f16",    "int8",   "fp8",   "f32",  "ceilings"};
  for (const std::string& part : parts) {
    if (std::find(known.begin(), known.end(), part) != known.end()) continue;
    std::fprintf(stderr, "strata-cudaprobe: %s: no such part\n", part.c_str());
    return 2;
  }
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess || count == 0) {
    std::printf("skipped: no device: %s\n", cudaGetErrorString(found));
    return 77;
  }
  cudaDeviceProp device = {};
  Require(cudaSetDevice(0), "taking the device");
  Require(cudaGetDeviceProperties(&device, 0), "asking for the device");
  for (const std::string& part : parts.empty() ? known : parts) {
    if (part == "device") ProbeDevice(device);
    if (part == "copies") ProbeCopies(device);
    if (part == "nodes") ProbeNodes(device);
    if (part == "sums") ProbeSums();
    if (part == "ceilings") ProbeCeilings();
    for (const MatrixFormat dtype : {MatrixFormat::kBF16, MatrixFormat::kF16, MatrixFormat::kI8,
                                     MatrixFormat::kF8, MatrixFormat::kF32}) {
      if (part == kernels::FormatName(dtype)) ProbeProducts(dtype);
    }
  }
  return 0;
}

}  // namespace
}  // namespace strata::testing

int main(int argc, char** argv) { return strata::testing::Main({argv + 1, argv + argc}); }
