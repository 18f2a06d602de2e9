// Single operations of a backend as shares of its device's ceilings, which are measured in the same
// run: products of few and many rows, attention of a decode step and of a prompt, and attention of
// layers that read the same values, kept in the second cache or not. Weights, keys, values and
// queries are random; products use matrices in turn, more of them than a cache holds.
//
//   build/bin/strata-devicebench --device cuda --context 8192 --batch 16
//
// A line of JSON for each operation.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "nlohmann/json.hpp"
#include "tests/bench/device_ceilings.h"

namespace strata::testing {
namespace {

using kernels::Backend;
using kernels::ElementType;
using nlohmann::ordered_json;

struct Options {
  std::string device = "cuda";
  std::string weights = "bf16";
  std::string cache_dtype = "bf16";
  bool batch_invariant = false;
  int32_t heads = 32;
  int32_t kv_heads = 8;
  int32_t head_dim = 128;
  int32_t context = 8192;
  int32_t batch = 16;
  int32_t prompt = 2048;
  int32_t layers = 16;  // that share values
  int32_t shared_context = 2048;
  int32_t shared_batch = 4;
  int32_t block_tokens = 32;
  int64_t width = 4096;
  int64_t intermediate = 14336;
};

template <kernels::NumberFormat Format>
Format FormatNamed(const std::string& name) {
  for (const Format format :
       {Format::kF32, Format::kBF16, Format::kF16, Format::kI8, Format::kF8}) {
    if (name == kernels::FormatName(format)) return format;
  }
  throw std::runtime_error(name + " is not one of f32, bf16, f16, int8, fp8");
}

class DeviceBench {
 public:
  explicit DeviceBench(const Options& options) : options_(options) {
    backend_ = Make(/*keep_shared_planes=*/true);
    ceilings_ = MeasureDeviceCeilings(*backend_, options.device);
    Print({{"operation", "ceilings"},
           {"device", backend_->Describe()},
           {"copy_gbps", ceilings_.read_gbps},
           {"bf16_gflops", ceilings_.bf16_gflops},
           {"f16_gflops", ceilings_.f16_gflops},
           {"int8_gops", ceilings_.int8_gops},
           {"fp8_gflops", ceilings_.fp8_gflops}});
  }

  // The matrix is read once. Floor: the larger of bytes over bandwidth and operations over the
  // rate.
  void Products() {
    const std::vector<float> weights = RandomFloats(options_.width * options_.intermediate);
    const kernels::HostRows rows = {ElementType::kF32,
                                    reinterpret_cast<const std::byte*>(weights.data()),
                                    options_.intermediate, options_.width};
    const auto stored = FormatNamed<kernels::MatrixFormat>(options_.weights);
    if (const auto status = backend_->CheckWeights(stored); !status.ok()) {
      throw std::runtime_error(std::string(status.message()));
    }
    std::vector<std::unique_ptr<kernels::Matrix>> matrices;
    for (size_t bytes = 0; bytes < kMostCached; bytes += matrices.back()->bytes()) {
      auto w = backend_->Pack({&rows, 1}, stored);
      if (!w.ok()) throw std::runtime_error(w.status().ToString());
      matrices.push_back(*std::move(w));
    }
    size_t turn = 0;
    for (const int64_t count : {1, 4, 8, 64, 512, 2048}) {
      const auto x = AllocateRandom(count * options_.width);
      const auto out = Allocate(static_cast<size_t>(count * options_.intermediate) * sizeof(float));
      const double seconds = SecondsOf(*backend_, [&] {
        backend_->MatMul(*matrices[turn++ % matrices.size()],
                         {x->floats(), count, options_.width, options_.width}, {},
                         {out->floats(), count, options_.intermediate, options_.intermediate},
                         Backend::Store::kSet);
      });
      const double operations = 2.0 * static_cast<double>(count * options_.width) *
                                static_cast<double>(options_.intermediate);
      Report("product", seconds, static_cast<double>(matrices[0]->bytes()), operations,
             ceilings_.RateOf(options_.weights), {{"rows", count}, {"weights", options_.weights}});
    }
  }

  // One layer: each sequence's row attends to its whole context.
  void DecodeAttention() { Attend("decode attention", options_.batch, options_.context, 1, 1); }
  void PromptAttention() { Attend("prompt attention", 1, options_.prompt, options_.prompt, 1); }
  // A decode step's attention in which every layer has its own keys and all have the same values.
  void SharedValues() {
    for (const bool keep : {false, true}) {
      backend_ = Make(keep);
      Attend(keep ? "shared values, kept" : "shared values, not kept", options_.shared_batch,
             options_.shared_context, 1, options_.layers);
    }
  }

 private:
  static constexpr size_t kMostCached = size_t{512} << 20;  // bytes, beyond any device's cache

  std::unique_ptr<Backend> Make(bool keep_shared_planes) const {
    auto backend = kernels::CreateBackend({.device = options_.device,
                                           .batch_invariant = options_.batch_invariant,
                                           .keep_shared_planes = keep_shared_planes});
    if (!backend.ok()) throw std::runtime_error(std::string(backend.status().message()));
    return *std::move(backend);
  }
  std::unique_ptr<kernels::Buffer> Allocate(size_t bytes) {
    auto buffer = backend_->Allocate(bytes);
    if (!buffer.ok()) throw std::runtime_error(buffer.status().ToString());
    return *std::move(buffer);
  }

  std::unique_ptr<kernels::Buffer> AllocateRandom(int64_t floats) {
    auto buffer = Allocate(static_cast<size_t>(floats) * sizeof(float));
    const std::vector<float> numbers = RandomFloats(floats);
    backend_->CopyFromHost(buffer->data(), std::as_bytes(std::span(numbers)));
    return buffer;
  }

  // Random keys and values in every plane of every token, written by the backend itself. slots: of
  // all tokens.
  void FillCache(const kernels::PagedArena& cache, size_t planes_of_block, size_t plane_bytes,
                 std::span<const int64_t> slots) {
    constexpr size_t kRows = 4096;
    const auto width = static_cast<int64_t>(planes_of_block) * options_.head_dim;
    const auto rows = AllocateRandom(static_cast<int64_t>(kRows) * width);
    std::vector<kernels::HeadWay> ways;
    for (size_t plane = 0; plane < planes_of_block; ++plane) {
      const auto place = static_cast<int64_t>(plane) * options_.head_dim;
      // The first heads are the values that all layers share.
      const bool is_value = plane < static_cast<size_t>(options_.kv_heads);
      ways.push_back({.data = rows->floats() + place,
                      .stride = width,
                      .head_dim = options_.head_dim,
                      .is_written = true,
                      .kind = is_value ? kernels::PlaneKind::kValue : kernels::PlaneKind::kKey,
                      .plane = {.offset = plane * plane_bytes}});
    }
    for (size_t at = 0; at < slots.size(); at += kRows) {
      const size_t count = std::min(kRows, slots.size() - at);
      backend_->PrepareAttention(cache, {.num_rows = static_cast<int64_t>(count),
                                         .ways = ways,
                                         .slots = slots.subspan(at, count)});
    }
    if (const auto status = backend_->Synchronize(); !status.ok()) {
      throw std::runtime_error(std::string(status.message()));
    }
  }

  // Runs `layers` layers one after the other, with the values of the first.
  void Attend(const char* name, int32_t batch, int32_t context, int32_t rows, int32_t layers) {
    const auto format = FormatNamed<kernels::PlaneFormat>(options_.cache_dtype);
    kernels::PagedArena cache = {
        .block_tokens = options_.block_tokens, .key_format = format, .value_format = format};
    const size_t plane = cache.TokenBytes(kernels::PlaneKind::kKey, options_.head_dim) *
                         static_cast<size_t>(options_.block_tokens);
    const auto kv_heads = static_cast<size_t>(options_.kv_heads);
    cache.place_bytes = (static_cast<size_t>(layers) + 1) * plane * kv_heads;
    const int32_t blocks = (context + options_.block_tokens - 1) / options_.block_tokens;
    const auto memory =
        Allocate(cache.place_bytes * static_cast<size_t>(blocks) * static_cast<size_t>(batch));
    cache.arena = memory->data();
    // Neighbouring blocks of a sequence are apart in memory, as in a busy server.
    std::vector<int32_t> tables(static_cast<size_t>(blocks) * static_cast<size_t>(batch));
    for (size_t i = 0; i < tables.size(); ++i) {
      const size_t sequence = i / static_cast<size_t>(blocks);
      const size_t block = i % static_cast<size_t>(blocks);
      tables[i] = static_cast<int32_t>(block * static_cast<size_t>(batch) + sequence);
    }
    std::vector<kernels::SequenceRows> sequences;
    std::vector<const int32_t*> tables_of(static_cast<size_t>(batch));
    for (int32_t i = 0; i < batch; ++i) {
      const auto place = static_cast<size_t>(i);
      tables_of[place] = tables.data() + place * static_cast<size_t>(blocks);
      sequences.push_back({int64_t{i} * rows, rows, context - rows, &tables_of[place]});
    }
    std::vector<int64_t> slots(tables.size() * static_cast<size_t>(options_.block_tokens));
    std::iota(slots.begin(), slots.end(), 0);
    FillCache(cache, (static_cast<size_t>(layers) + 1) * kv_heads, plane, slots);
    const int64_t width = int64_t{options_.heads} * options_.head_dim;
    const int64_t floats = batch * int64_t{rows} * width;
    const auto queries = AllocateRandom(floats);
    const auto outputs = Allocate(static_cast<size_t>(floats) * sizeof(float));
    std::vector<std::vector<kernels::PlaneGroup>> groups(static_cast<size_t>(layers));
    for (size_t layer = 0; layer < groups.size(); ++layer) {
      for (size_t g = 0; g < kv_heads; ++g) {
        groups[layer].push_back({.keys = {.offset = ((layer + 1) * kv_heads + g) * plane},
                                 .values = {.offset = g * plane},
                                 .head_dim = options_.head_dim,
                                 .values_again = layers > 1});
      }
      for (int32_t h = 0; h < options_.heads; ++h) {
        const auto group = static_cast<size_t>(h / (options_.heads / options_.kv_heads));
        groups[layer][group].heads.push_back(
            {.query = queries->floats() + int64_t{h} * options_.head_dim,
             .query_stride = width,
             .output = outputs->floats() + int64_t{h} * options_.head_dim,
             .output_stride = width});
      }
    }
    const auto attend = [&] {
      for (const auto& of_layer : groups) backend_->Attention(cache, sequences, of_layer);
    };
    const double seconds = SecondsOf(*backend_, attend);
    const int64_t before = backend_->counters().cache_bytes_read;
    attend();
    const auto bytes = static_cast<double>(backend_->counters().cache_bytes_read - before);
    const double pairs =
        double{1} * layers * batch * (rows * (context - rows) + 0.5 * rows * (rows + 1.0));
    Report(name, seconds, bytes, 4.0 * pairs * static_cast<double>(width), ceilings_.bf16_gflops,
           {{"batch", batch},
            {"context", context},
            {"layers", layers},
            {"cache", options_.cache_dtype}});
  }

  // rate: of the device's matrix instructions, 10^9 operations a second.
  void Report(const char* name, double seconds, double bytes, double operations, double rate,
              ordered_json details) {
    ordered_json line = {{"operation", name}};
    line.update(details);
    line["microseconds"] = 1e6 * seconds;
    line["gbps"] = 1e-9 * bytes / seconds;
    line["share_of_copy"] = 1e-9 * bytes / seconds / ceilings_.read_gbps;
    line["gflops"] = 1e-9 * operations / seconds;
    line["share_of_matrix_rate"] = 1e-9 * operations / seconds / rate;
    Print(line);
  }
  static void Print(const ordered_json& line) {
    std::printf("%s\n", line.dump().c_str());
    std::fflush(stdout);
  }

  const Options options_;
  std::unique_ptr<Backend> backend_;
  Ceilings ceilings_;
};

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Single operations of a backend beside its device's ceilings");
  app.add_option("--device", options.device, "cuda, cpu");
  app.add_option("--weights", options.weights, "f32, bf16, f16, int8, fp8");
  app.add_option("--cache-dtype", options.cache_dtype, "The same of the cache");
  app.add_flag("--batch-invariant", options.batch_invariant, "Own products for any number of rows");
  app.add_option("--heads", options.heads, "Query heads");
  app.add_option("--kv-heads", options.kv_heads, "Heads that have keys and values");
  app.add_option("--head-dim", options.head_dim, "Dimensions of a head");
  app.add_option("--context", options.context, "Of a decode step");
  app.add_option("--batch", options.batch, "Sequences of a decode step");
  app.add_option("--prompt", options.prompt, "Tokens of the prompt");
  app.add_option("--layers", options.layers, "Layers that share values");
  app.add_option("--shared-context", options.shared_context, "Context of what they attend to");
  app.add_option("--shared-batch", options.shared_batch, "Sequences that do");
  app.add_option("--block-tokens", options.block_tokens, "Tokens in a block of the cache");
  app.add_option("--width", options.width, "Inputs of a product");
  app.add_option("--intermediate", options.intermediate, "Outputs of a product");
  CLI11_PARSE(app, argc, argv);
  DeviceBench bench(options);
  bench.Products();
  bench.DecodeAttention();
  bench.PromptAttention();
  bench.SharedValues();
  return 0;
}

}  // namespace
}  // namespace strata::testing

int main(int argc, char** argv) {
  try {
    return strata::testing::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "strata-devicebench: %s\n", error.what());
    return 1;
  }
}
