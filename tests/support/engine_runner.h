#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/types.h"
#include "engine/serve/engine_core.h"

namespace strata::testing {

// A directory that is removed with the object.
class ScratchDir {
 public:
  ScratchDir();
  ScratchDir(const ScratchDir&) = delete;
  ScratchDir& operator=(const ScratchDir&) = delete;
  ~ScratchDir();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Events of one request, and the logits that chose each of its tokens. `others`: the same for its
// sequences after the first, by index.
struct Recording final : engine::RequestSink {
  void OnStarted(const engine::StartedEvent& event) override;
  void OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) override;
  void OnToken(engine::TokenEvent event) override;
  void OnFinished(engine::FinishedEvent event) override;

  int num_started = 0;
  int num_finished = 0;
  bool in_order = true;  // started, tokens at consecutive positions, finished
  engine::StartedEvent start;
  std::vector<engine::TokenLogprobs> prompt_logprobs;
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<std::optional<engine::TokenLogprobs>> token_logprobs;  // [tokens]
  std::vector<std::vector<float>> attention;                         // [tokens]
  engine::FinishedEvent end;
  std::vector<std::vector<float>> logits;  // [chosen token][vocab]
  std::map<int32_t, Recording> others;

  Recording& Of(int32_t index);
};

// Sets the backend of every later EngineRunner, in place of its options' device, to run the same
// tests on another backend. `emulated`: it is slow, and tests of many cases run some of them.
void SetTestBackend(std::function<std::unique_ptr<kernels::Backend>()> make_backend, bool emulated);
bool TestBackendIsEmulated();

// Drives an EngineCore step by step, without threads.
//
// Example: EngineRunner runner({.model_dir = dir});
//          runner.MustSubmit("a", {1, 2, 3}, Greedy(8)); runner.Run(); runner["a"].tokens
class EngineRunner {
 public:
  // Throws if the engine cannot be made: the test fails with the status as its message.
  explicit EngineRunner(const engine::EngineOptions& options);

  // Validates, then queues.
  absl::Status Submit(engine::Request request);
  absl::Status Submit(const std::string& id, std::vector<int32_t> prompt,
                      const engine::SamplingParams& sampling);
  void MustSubmit(const std::string& id, std::vector<int32_t> prompt,
                  const engine::SamplingParams& sampling);
  // Runs one step. Throws if an invariant is broken after it.
  void Step();
  void Run();

  const Recording& operator[](const std::string& id) const { return *recordings_.at(id); }
  engine::EngineCore& core() { return *core_; }
  int32_t blocks_used() const { return core_->cache().usage().blocks_used; }

 private:
  std::unique_ptr<engine::EngineCore> core_;
  std::map<std::string, std::shared_ptr<Recording>> recordings_;
};

// Greedy, never stopped by an end-of-sequence token.
engine::SamplingParams Greedy(int32_t max_tokens);

// A prompt of `length` ids below `vocab`, different for each seed.
std::vector<int32_t> RandomPrompt(uint64_t seed, int32_t length, int32_t vocab);

}  // namespace strata::testing
