// The real engine on random weights of a published shape, compared with the machine's peak rates.
//
//   build/bin/strata-enginebench --shape smollm-135m --plan svformer --weights int8
//     --prompt 512 --gen 32 --batch 1,8 --json
//
// A row (with --json an object) for each batch size. Prompts are computed, then all sequences
// decode together for `gen` steps; figures are medians over these steps. Peak rates are measured
// just before and after. --decode-only leaves out the computation of prompts: planes hold arbitrary
// memory, which is as good to read.
//
// --fill BYTES does this instead: reports how many sequences of `prompt` tokens are in a cache of
// BYTES bytes.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "engine/serve/engine_core.h"
#include "nlohmann/json.hpp"
#include "tests/bench/ceilings.h"
#include "tests/bench/device_ceilings.h"
#include "tests/bench/profiling_backend.h"

namespace strata::testing {
namespace {

using nlohmann::ordered_json;

struct BenchOptions {
  std::string device = "cpu";
  std::string shape = "smollm-135m";
  std::string plan = "plain";
  std::string weights = "bf16";
  std::string cache_dtype = "auto";
  engine::ScoreReuse score_reuse = engine::ScoreReuse::kAuto;
  int32_t batch_tokens = 0;
  double temperature = 0;
  double top_p = 1;
  int32_t prompt = 512;
  int32_t gen = 32;
  std::vector<int32_t> batch = {1, 8};
  int32_t threads = 0;
  int32_t block_tokens = engine::EngineOptions{}.block_tokens;
  bool batch_invariant = false;
  bool decode_only = false;
  bool json = false;
  bool profile = false;
  bool forget_shared_planes = false;
  bool in_step = false;
  size_t fill = 0;
};

class Ignore final : public engine::RequestSink {
 public:
  void OnStarted(const engine::StartedEvent&) override {}
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs>) override {}
  void OnToken(engine::TokenEvent) override {}
  void OnFinished(engine::FinishedEvent) override {}
};

// One step's seconds and its work.
struct StepFigures {
  double seconds = 0;
  double device_seconds = 0;  // part of it by the device's own clock, if it has one
  std::map<std::string, Work> work;
  int32_t prefill_tokens = 0;
};

class Recorder final : public engine::EngineObserver {
 public:
  void OnStep(const engine::StepStats& step) override { last = step; }
  void OnFinished(const std::string&, const engine::FinishedEvent&) override {}
  void OnAbort(const engine::AbortStats&) override {}

  engine::StepStats last;
};

template <class Value>
double Median(const std::vector<StepFigures>& steps, Value value) {
  std::vector<double> values;
  for (const StepFigures& step : steps) values.push_back(value(step));
  if (values.empty()) return 0;
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double Sum(const std::vector<StepFigures>& steps, double StepFigures::*value) {
  double sum = 0;
  for (const StepFigures& step : steps) sum += step.*value;
  return sum;
}

class EngineBench {
 public:
  explicit EngineBench(const BenchOptions& options) : options_(options) {
    const int most = *std::max_element(options.batch.begin(), options.batch.end());
    threads_ = options.threads > 0 ? options.threads
                                   : static_cast<int32_t>(std::thread::hardware_concurrency());
    engine::EngineOptions engine_options;
    engine_options.shape = options.shape;
    engine_options.cross_layer = options.plan;
    engine_options.weights = options.weights;
    engine_options.cache_dtype = options.cache_dtype;
    engine_options.score_reuse = options.score_reuse;
    engine_options.threads = threads_;
    engine_options.block_tokens = options.block_tokens;
    engine_options.prefix_cache = false;
    engine_options.max_running = options.fill > 0 ? kMostFilling : most;
    engine_options.observer = &recorder_;
    // Room for the largest batch: the bytes of a token are known once the plan is.
    engine_options.cache_bytes = size_t{64} << 20;
    core_ = Make(engine_options);
    const size_t token_bytes = model().plan.held_bytes_per_token();
    prompt_tokens_ = options.batch_tokens > 0 ? options.batch_tokens : backend_->StepTokens();
    core_.reset();  // its weights go before those of the engine that is measured come
    engine_options.max_batch_tokens = prompt_tokens_ + most;
    engine_options.max_prefill_chunk = prompt_tokens_;
    const auto tokens = static_cast<size_t>(options.prompt + MostTokens(most) + 16);
    // The scheduler keeps a 64th of the blocks free for running sequences.
    engine_options.cache_bytes =
        token_bytes * ((tokens + static_cast<size_t>(options.block_tokens)) *
                           static_cast<size_t>(most) * 33 / 32 +
                       256);
    if (options.fill > 0) {
      // With a row of each prompt a step has room for all of them: the cache alone says how many.
      engine_options.max_batch_tokens = kMostFilling;
      engine_options.max_prefill_chunk = 1;
      engine_options.cache_bytes = options.fill;
    }
    core_ = Make(engine_options);
    if (options.fill > 0) return;
    core_->set_runs_ahead(!options.in_step);
    const kernels::PagedArena arena = core_->cache().arena();
    const std::vector<std::byte> block(arena.place_bytes, std::byte{0x3c});
    for (int32_t i = 0; i < core_->cache().usage().blocks_total; ++i) {
      backend_->CopyFromHost(arena.arena + static_cast<size_t>(i) * block.size(), block);
    }
  }

  const engine::ModelInfo& model() const { return core_->model(); }

  // Peak rates of the device; the processor's are measured on the engine's number of threads.
  Ceilings MeasureMachine() {
    if (options_.device == "cpu") return MeasureCeilings(threads_);
    return MeasureDeviceCeilings(*backend_, options_.device);
  }
  // Measures the machine before and after; the step's floor uses the mean of both.
  ordered_json Run(int32_t batch) {
    const Ceilings before = MeasureMachine();
    const auto now = std::chrono::steady_clock::now();
    for (int32_t i = 0; i < batch; ++i)
      core_->Add(RequestOf(i, MostTokens(batch)), std::make_shared<Ignore>(), now);
    std::vector<StepFigures> prefill;
    std::vector<StepFigures> decode;
    while (std::ssize(decode) < options_.gen) {
      backend_->set_asleep(options_.decode_only && InPrefill());
      StepFigures step = Step();
      const bool whole = recorder_.last.decode_tokens == batch && step.prefill_tokens == 0;
      if (step.prefill_tokens > 0)
        prefill.push_back(std::move(step));
      else if (whole)
        decode.push_back(std::move(step));
    }
    const kvcache::CacheUsage usage = core_->cache().usage();
    const kvcache::PlaneMap& planes = core_->cache().planes();
    const double score_share = static_cast<double>(usage.score_blocks_used) / usage.blocks_used;
    held_bytes_per_token_ = static_cast<double>(planes.bytes_per_token()) +
                            score_share * static_cast<double>(planes.score_bytes_per_token());
    core_->FinishAll(engine::FinishReason::kCancelled, absl::CancelledError("measured"));
    while (core_->HasWork()) core_->Step();  // ends a step under way
    return Report(batch, MeanOf(before, MeasureMachine()), prefill, decode);
  }

  // All sequences that have room are admitted in the first step.
  ordered_json Fill() {
    const kvcache::CacheManager& cache = core_->cache();
    const int64_t blocks = cache.BlocksFor(options_.prompt);
    const int64_t most = cache.usage().blocks_total / blocks + 1;
    for (int32_t i = 0; i < std::min<int64_t>(most, kMostFilling); ++i) {
      core_->Add(RequestOf(i, 2), std::make_shared<Ignore>(), std::chrono::steady_clock::now());
    }
    backend_->set_asleep(true);
    core_->Step();
    const size_t sequences = core_->scheduler().running().size();
    core_->FinishAll(engine::FinishReason::kCancelled, absl::CancelledError("counted"));
    const size_t held = model().plan.held_bytes_per_token();
    const auto tokens = static_cast<size_t>(blocks * options_.block_tokens);
    return {{"plan", options_.plan},
            {"prompt", options_.prompt},
            {"cache_bytes", options_.fill},
            {"held_bytes_per_token", held},
            {"sequences", sequences},
            {"share_of_cache",
             static_cast<double>(sequences * tokens * held) / static_cast<double>(options_.fill)}};
  }

 private:
  static constexpr int32_t kMostFilling = 8192;  // sequences

  // The first sequences decode while the prompts of the last are computed.
  int32_t MostTokens(int32_t batch) const {
    return options_.gen + options_.prompt * batch / prompt_tokens_ + batch + 8;
  }

  std::unique_ptr<engine::EngineCore> Make(const engine::EngineOptions& options) {
    auto inner = kernels::CreateBackend({.device = options_.device,
                                         .threads = options.threads,
                                         .batch_invariant = options_.batch_invariant,
                                         .keep_shared_planes = !options_.forget_shared_planes,
                                         .times_steps = true});
    if (!inner.ok()) throw std::runtime_error(inner.status().ToString());
    auto backend = std::make_unique<ProfilingBackend>(*std::move(inner), options_.profile);
    backend_ = backend.get();
    auto core = engine::EngineCore::Create(options, std::move(backend));
    if (!core.ok()) throw std::runtime_error(std::string(core.status().message()));
    return *std::move(core);
  }

  engine::Request RequestOf(int32_t i, int32_t max_tokens) const {
    engine::Request request;
    request.id = std::to_string(i);
    for (int32_t t = 0; t < options_.prompt; ++t) {
      request.prompt.push_back((i * 7919 + t * 104729) % model().vocab_size);
    }
    request.sampling.temperature = static_cast<float>(options_.temperature);
    request.sampling.top_p = static_cast<float>(options_.top_p);
    request.sampling.ignore_eos = true;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.max_tokens = max_tokens;
    return request;
  }

  bool InPrefill() const {
    if (!core_->scheduler().waiting().empty()) return true;
    const auto& running = core_->scheduler().running();
    return std::any_of(running.begin(), running.end(), [](const auto& sequence) {
      return sequence->size() - sequence->computed > 1 || sequence->num_generated() == 0;
    });
  }

  StepFigures Step() {
    backend_->TakeWork();
    const double before = backend_->counters().step_seconds;
    core_->Step();
    const engine::StepStats& stats = recorder_.last;
    StepFigures figures;
    figures.seconds = stats.plan_seconds + stats.forward_seconds + stats.commit_seconds;
    figures.device_seconds = backend_->counters().step_seconds - before;
    figures.work = backend_->TakeWork();
    figures.work["sampling"].seconds += stats.commit_seconds;
    figures.prefill_tokens = stats.prefill_tokens;
    return figures;
  }

  ordered_json Report(int32_t batch, const Ceilings& ceilings,
                      const std::vector<StepFigures>& prefill,
                      const std::vector<StepFigures>& decode) const {
    double prefill_seconds = 0;
    for (const StepFigures& step : prefill) prefill_seconds += step.seconds;
    const double step = Median(decode, [](const StepFigures& s) { return s.seconds; });
    const double attention =
        Median(decode, [](const StepFigures& s) { return s.work.at("attention").seconds; });
    const double cache_bytes =
        Median(decode, [](const StepFigures& s) { return s.work.at("attention").bytes; });
    // Every weight, except a separate embedding table, is multiplied with every row once.
    const auto weight_bytes = static_cast<double>(model().weight_bytes);
    const double operations = 2.0 * static_cast<double>(model().parameters) * batch;
    const double floor = std::max(1e-9 * operations / ceilings.RateOf(model().dtype),
                                  1e-9 * weight_bytes / ceilings.read_gbps) +
                         1e-9 * cache_bytes / ceilings.read_gbps;
    ordered_json report = {{"shape", options_.shape},
                           {"plan", options_.plan},
                           {"score_reuse", model().plan.stores_scores ? "store" : "route"},
                           {"dtype", model().dtype},
                           {"cache_dtype", model().plan.dtype},
                           {"threads", threads_},
                           {"batch", batch},
                           {"prompt", options_.prompt},
                           {"prefill_tokens_per_second",
                            options_.decode_only ? ordered_json()
                                                 : ordered_json(static_cast<double>(batch) *
                                                                options_.prompt / prefill_seconds)},
                           {"decode_tokens_per_second", batch / step},
                           {"step_seconds", step},
                           {"floor_seconds", floor},
                           {"attention_seconds_per_step", attention},
                           {"attention_bytes_per_step", cache_bytes},
                           {"cache_bytes_per_token", held_bytes_per_token_},
                           {"plain_cache_bytes_per_token", model().plan.plain_bytes_per_token},
                           {"read_gbps", ceilings.read_gbps},
                           {"matrix_gflops", ceilings.matrix_gflops},
                           {"bf16_gflops", ceilings.bf16_gflops},
                           {"int8_gops", ceilings.int8_gops},
                           {"weight_bytes", weight_bytes}};
    if (const double busy = Sum(decode, &StepFigures::device_seconds); busy > 0) {
      report["device_seconds_per_step"] = busy / static_cast<double>(decode.size());
      report["device_idle_share"] = 1 - busy / Sum(decode, &StepFigures::seconds);
    }
    if (options_.profile) {
      report["prefill_profile"] = Profile(prefill, ceilings);
      report["decode_profile"] = Profile(decode, ceilings);
    }
    return report;
  }

  // The time of each kind of operation in an average step, and its share of the nearer ceiling.
  ordered_json Profile(const std::vector<StepFigures>& steps, const Ceilings& ceilings) const {
    std::map<std::string, Work> sums;
    for (const StepFigures& step : steps) {
      for (const auto& [kind, work] : step.work) sums[kind] += work;
    }
    ordered_json profile = ordered_json::object();
    for (const auto& [kind, work] : sums) {
      const double gflops = 1e-9 * work.operations / work.seconds;
      const double gbps = 1e-9 * work.bytes / work.seconds;
      const double rate =
          kind == "products" ? ceilings.RateOf(model().dtype) : ceilings.matrix_gflops;
      profile[kind] = {{"seconds", work.seconds / static_cast<double>(steps.size())},
                       {"gflops", gflops},
                       {"gbps", gbps},
                       {"share", std::max(gflops / rate, gbps / ceilings.read_gbps)}};
    }
    return profile;
  }

  const BenchOptions options_;
  int32_t threads_ = 0;
  int32_t prompt_tokens_ = 0;        // of prompts, in a step
  double held_bytes_per_token_ = 0;  // by the pool's own count, when all decode
  Recorder recorder_;
  ProfilingBackend* backend_ = nullptr;  // core_'s
  std::unique_ptr<engine::EngineCore> core_;
};

void Print(const ordered_json& row) {
  const double bytes = row["attention_bytes_per_step"];
  const double attention = row["attention_seconds_per_step"];
  const double read = row["read_gbps"];
  const auto& prefill = row["prefill_tokens_per_second"];
  std::printf(
      "batch %-4d prefill %8.1f tokens/s   decode %8.1f tokens/s   step %8.2f ms (floor "
      "%.0f %%)   attention %8.2f ms, %5.2f GB/s (%.0f %%)\n",
      row["batch"].get<int>(), prefill.is_null() ? 0.0 : prefill.get<double>(),
      row["decode_tokens_per_second"].get<double>(), 1e3 * row["step_seconds"].get<double>(),
      100 * row["floor_seconds"].get<double>() / row["step_seconds"].get<double>(), 1e3 * attention,
      1e-9 * bytes / attention, 1e-7 * bytes / attention / read);
  std::printf(
      "  beside it the machine reads %.1f GB/s and does %.0f GFLOP/s in f32, %.0f in bf16, "
      "%.0f in int8\n",
      read, row["matrix_gflops"].get<double>(), row["bf16_gflops"].get<double>(),
      row["int8_gops"].get<double>());
  if (row.contains("device_idle_share")) {
    std::printf("  the device takes %.3f ms of a step and idles %.1f %% of the time\n",
                1e3 * row["device_seconds_per_step"].get<double>(),
                100 * row["device_idle_share"].get<double>());
  }
  for (const char* const phase : {"prefill_profile", "decode_profile"}) {
    if (!row.contains(phase) || row[phase].empty()) continue;
    std::printf("  %s, of a step:\n", phase);
    for (const auto& [kind, work] : row[phase].items()) {
      std::printf("    %-14s %9.3f ms", kind.c_str(), 1e3 * work["seconds"].get<double>());
      if (work["share"] > 0) {
        std::printf("  %7.1f GFLOP/s  %6.2f GB/s  %3.0f %%", work["gflops"].get<double>(),
                    work["gbps"].get<double>(), 100 * work["share"].get<double>());
      }
      std::printf("\n");
    }
  }
}

int Main(int argc, char** argv) {
  BenchOptions options;
  CLI::App app("The engine on random weights of a published shape, beside the machine's ceilings");
  app.add_option("--shape", options.shape, "smollm-135m, tinyllama-1.1b, llama-3.2-1b, ...");
  app.add_option("--device", options.device,
                 "cpu, cuda (there operations have times of their own with --profile only)");
  app.add_flag("--batch-invariant", options.batch_invariant, "CUDA: a row's bits are its own");
  app.add_option("--plan", options.plan, "plain, svformer, reuse, svformer-reuse, ... or JSON");
  app.add_option("--weights,--dtype", options.weights, "f32, bf16, int8; on CUDA f16, fp8");
  app.add_option("--cache-dtype", options.cache_dtype,
                 "auto (as the weights, bf16 with int8), f32, bf16, int8, k=int8,v=bf16 ...");
  app.add_option("--score-reuse", options.score_reuse, "auto, store, route")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, engine::ScoreReuse>{{"auto", engine::ScoreReuse::kAuto},
                                                    {"store", engine::ScoreReuse::kStore},
                                                    {"route", engine::ScoreReuse::kRoute}}));
  app.add_option("--batch-tokens", options.batch_tokens,
                 "Tokens of prompts in a step; 0: 512 on the CPU, 8192 on CUDA")
      ->check(CLI::Range(0, 1 << 16));
  app.add_option("--temperature", options.temperature, "0: the likeliest token is taken")
      ->check(CLI::Range(0.0, 2.0));
  app.add_option("--top-p", options.top_p, "Of the draw")->check(CLI::Range(0.0, 1.0));
  app.add_option("--prompt", options.prompt, "Tokens of each prompt")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--gen", options.gen, "Steps in which all sequences write")
      ->check(CLI::Range(2, 1 << 20));
  app.add_option("--batch", options.batch, "Sequences at once, a row for each number")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--threads", options.threads, "0: all cores");
  app.add_option("--block-tokens", options.block_tokens, "Tokens in a block of the cache");
  app.add_flag("--decode-only", options.decode_only, "Prompts are not computed");
  app.add_flag("--profile", options.profile,
               "What each kind of operation takes, and its share of the ceiling");
  app.add_flag("--forget-shared-planes", options.forget_shared_planes,
               "CUDA: planes that several layers read are not kept in the second cache");
  app.add_flag("--in-step", options.in_step,
               "CUDA: no step is under way before the last one's tokens are known");
  app.add_option("--fill", options.fill, "Bytes of a cache to be filled: nothing else is measured");
  app.add_flag("--json", options.json, "A list of objects");
  CLI11_PARSE(app, argc, argv);

  EngineBench bench(options);
  if (options.fill > 0) {
    std::printf("%s\n", bench.Fill().dump().c_str());
    return 0;
  }
  if (!options.json) {
    std::printf("%s, %s: weights %.1f MB in %s, cache %zu bytes a token; %s\n",
                options.shape.c_str(), options.plan.c_str(),
                1e-6 * static_cast<double>(bench.model().weight_bytes), bench.model().dtype.c_str(),
                bench.model().plan.held_bytes_per_token(), bench.model().device.c_str());
  }
  ordered_json rows = ordered_json::array();
  for (const int32_t batch : options.batch) {
    rows.push_back(bench.Run(batch));
    if (!options.json) Print(rows.back());
  }
  if (options.json) std::cout << rows.dump(2) << std::endl;
  return 0;
}

}  // namespace
}  // namespace strata::testing

int main(int argc, char** argv) {
  try {
    return strata::testing::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "strata-enginebench: " << error.what() << std::endl;
    return 1;
  }
}
