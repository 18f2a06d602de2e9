#include "tests/support/engine_runner.h"

#include <chrono>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace strata::testing {
namespace {

void Require(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

struct Backends {
  std::function<std::unique_ptr<kernels::Backend>()> make;
  bool emulated = false;
};
Backends& TestBackend() {
  static Backends backends;
  return backends;
}

}  // namespace

void SetTestBackend(std::function<std::unique_ptr<kernels::Backend>()> make_backend,
                    bool emulated) {
  TestBackend() = {std::move(make_backend), emulated};
}
bool TestBackendIsEmulated() { return TestBackend().emulated; }

ScratchDir::ScratchDir() {
  std::string name = (std::filesystem::temp_directory_path() / "strata-test-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp " + name);
  path_ = name;
}

ScratchDir::~ScratchDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void Recording::OnStarted(const engine::StartedEvent& event) {
  in_order = in_order && num_started == 0 && num_finished == 0 && tokens.empty();
  ++num_started;
  start = event;
}

void Recording::OnPromptLogprobs(std::vector<engine::TokenLogprobs> logprobs) {
  in_order = in_order && num_started == 1 && tokens.empty();
  prompt_logprobs = std::move(logprobs);
}

void Recording::OnToken(engine::TokenEvent event) {
  Recording& recording = Of(event.index);
  const bool first = recording.positions.empty();
  const int32_t expected = first ? start.prompt_tokens : recording.positions.back() + 1;
  in_order = in_order && num_started == 1 && recording.num_finished == 0;
  in_order = in_order && event.position == expected;
  recording.tokens.push_back(event.token);
  recording.positions.push_back(event.position);
  recording.token_logprobs.push_back(event.logprobs);
  recording.attention.push_back(event.attention);
}

void Recording::OnFinished(engine::FinishedEvent event) {
  Recording& recording = Of(event.index);
  in_order = in_order && recording.num_finished == 0;
  ++recording.num_finished;
  recording.end = event;
}

Recording& Recording::Of(int32_t index) { return index == 0 ? *this : others[index]; }

EngineRunner::EngineRunner(const engine::EngineOptions& options) {
  auto core =
      engine::EngineCore::Create(options, TestBackend().make ? TestBackend().make() : nullptr);
  Require(core.status());
  core_ = *std::move(core);
  core_->set_logits_hook([this](const engine::Sequence& sequence, std::span<const float> logits) {
    recordings_.at(sequence.id())
        ->Of(sequence.index)
        .logits.emplace_back(logits.begin(), logits.end());
  });
}

absl::Status EngineRunner::Submit(const std::string& id, std::vector<int32_t> prompt,
                                  const engine::SamplingParams& sampling) {
  engine::Request request;
  request.id = id;
  request.prompt = std::move(prompt);
  request.sampling = sampling;
  return Submit(std::move(request));
}

absl::Status EngineRunner::Submit(engine::Request request) {
  if (absl::Status status = core_->Validate(request); !status.ok()) return status;
  const auto recording = std::make_shared<Recording>();
  if (!recordings_.emplace(request.id, recording).second) {
    throw std::runtime_error("id used twice: " + request.id);
  }
  core_->Add(std::move(request), recording, std::chrono::steady_clock::now());
  return absl::OkStatus();
}

void EngineRunner::MustSubmit(const std::string& id, std::vector<int32_t> prompt,
                              const engine::SamplingParams& sampling) {
  Require(Submit(id, std::move(prompt), sampling));
}

void EngineRunner::Step() {
  core_->Step();
  Require(core_->CheckIntegrity());
}

void EngineRunner::Run() {
  while (core_->HasWork()) Step();
}

engine::SamplingParams Greedy(int32_t max_tokens) {
  return {.temperature = 0, .max_tokens = max_tokens, .ignore_eos = true};
}

std::vector<int32_t> RandomPrompt(uint64_t seed, int32_t length, int32_t vocab) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (int32_t& id : prompt) {
    id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab));
  }
  return prompt;
}

}  // namespace strata::testing
