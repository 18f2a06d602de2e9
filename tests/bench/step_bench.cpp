// The cost of a step beside the model: planning, flattening, sampling, handing out. The backend
// does nothing, so only the engine thread's own work remains.
//
//   build/bin/strata-step-bench [--blocks 1000000] [--sequences 64]
//
// A row for each number of running sequences, all decoding: medians over steps, in microseconds.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/serve/engine_core.h"
#include "tests/support/engine_runner.h"
#include "tests/support/null_backend.h"
#include "tests/support/tiny_model.h"

namespace strata::testing {
namespace {

constexpr int32_t kVocab = 128;
constexpr int32_t kPrompt = 100;
constexpr int32_t kSteps = 200;

// A front's sink: appends under a lock.
class Outbox final : public engine::RequestSink {
 public:
  void OnStarted(const engine::StartedEvent&) override {}
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs>) override {}
  void OnToken(engine::TokenEvent event) override {
    const MutexLock lock(mutex_);
    tokens_.push_back(event.token);
  }
  void OnFinished(engine::FinishedEvent) override {}

 private:
  Mutex mutex_;
  std::vector<int32_t> tokens_ STRATA_GUARDED_BY(mutex_);
};

class Keeper final : public engine::EngineObserver {
 public:
  void OnStep(const engine::StepStats& step) override {
    if (step.prefill_tokens > 0) return;
    plan.push_back(step.plan_seconds * 1e6);
    commit.push_back((step.sample_seconds + step.commit_seconds) * 1e6);
  }
  void OnFinished(const std::string&, const engine::FinishedEvent&) override {}
  void OnAbort(const engine::AbortStats&) override {}

  std::vector<double> plan, commit;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ssize(values) / 2, values.end());
  return values[values.size() / 2];
}

void Measure(const std::filesystem::path& model_dir, int32_t blocks, int32_t sequences) {
  Keeper keeper;
  engine::EngineOptions options;
  options.model_dir = model_dir;
  options.cache_bytes = size_t{2} * 8 * sizeof(float) * 16 * static_cast<size_t>(blocks);
  options.max_batch_tokens = 8192;
  options.max_prefill_chunk = 8192;
  options.max_running = sequences;
  options.observer = &keeper;
  auto core = engine::EngineCore::Create(options, std::make_unique<NullBackend>());
  if (!core.ok()) throw std::runtime_error(core.status().ToString());
  const auto now = std::chrono::steady_clock::now();
  for (int32_t i = 0; i < sequences; ++i) {
    engine::Request request;
    request.id = std::to_string(i);
    request.prompt = RandomPrompt(static_cast<uint64_t>(i), kPrompt, kVocab);
    request.sampling = Greedy(kSteps + 200);
    (*core)->Add(std::move(request), std::make_shared<Outbox>(), now);
  }
  while (std::ssize(keeper.plan) < kSteps) (*core)->Step();
  const double plan = Median(keeper.plan);
  const double commit = Median(keeper.commit);
  std::printf("%9d  %8.1f  %8.1f  %8.1f  %12.3f\n", sequences, plan, commit, plan + commit,
              (plan + commit) / sequences);
}

}  // namespace
}  // namespace strata::testing

int main(int argc, char** argv) {
  using namespace strata::testing;
  int32_t blocks = 1000000;
  std::vector<int32_t> batches = {1, 16, 64, 256, 1024, 4096};
  for (int i = 1; i + 1 < argc; i += 2) {
    if (std::string(argv[i]) == "--blocks") blocks = std::atoi(argv[i + 1]);
    if (std::string(argv[i]) == "--sequences") batches = {std::atoi(argv[i + 1])};
  }
  const ScratchDir scratch;
  const auto dir = WriteModelDir(
      MakeTinyModel(
          {.attention = {.num_layers = 1, .num_query_heads = 1, .num_kv_heads = 1, .head_dim = 8},
           .hidden_size = 8,
           .intermediate_size = 8,
           .vocab_size = kVocab,
           .max_positions = 1024}),
      scratch.path());
  std::printf("%d blocks, vocabulary of %d, microseconds a step (median of %d)\n", blocks, kVocab,
              kSteps);
  std::printf("%9s  %8s  %8s  %8s  %12s\n", "sequences", "plan", "commit", "together",
              "a sequence");
  for (const int32_t sequences : batches) Measure(dir, blocks, sequences);
}
